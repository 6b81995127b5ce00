"""What evidence there is of two versions by one evaluator on one data set. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from softprompt_serve.release.case import called, total_of
from softprompt_serve.release.gate_words import figures, sentence
from softprompt_serve.release.paired import Mean, compare, compare_means
from softprompt_serve.release.pairs import pair

if TYPE_CHECKING:
    from softprompt_serve.release.case import Case
    from softprompt_serve.release.evidence import Run, Total
    from softprompt_serve.release.paired import Comparison
    from softprompt_serve.release.pairs import Pairs
    from softprompt_serve.release.policy import Measured
    from softprompt_serve.release.verdict import Number, Subject


class Asked(NamedTuple):
    """What is measured on which items; see :class:`~softprompt_serve.release.policy.Measured`."""

    evaluator: str
    dataset: str
    dataset_sha256: str | None = None

    @classmethod
    def of(cls, measured: Measured) -> Asked:
        """As a policy says."""
        return cls(measured.evaluator, measured.dataset, measured.dataset_sha256)

    @property
    def label(self) -> str:
        """``evaluator on dataset``."""
        return f"{self.evaluator} on {self.dataset}"


class Evidence(NamedTuple):
    """What counts.

    Attributes:
        run: where it is from; of two runs, the candidate's.
        against: with whom the candidate is compared.
        scores: by item, at least one; or the two means, where no items are known.
    """

    run: Run
    against: Subject
    scores: Pairs | tuple[Mean, Mean]

    @property
    def paired(self) -> bool:
        """Whether items are known."""
        return not isinstance(self.scores, tuple)

    def compare(self, confidence: float, margin: float) -> Comparison:
        """Hold the difference against ``margin``."""
        if isinstance(self.scores, tuple):
            return compare_means(*self.scores, confidence=confidence, margin=margin)
        return compare_pairs(self.scores, confidence, margin)

    def numbers(self, found: Comparison) -> dict[str, Number]:
        """For a gate's numbers."""
        numbers: dict[str, Number] = {"against": self.against.name, "run": self.run.id}
        if not isinstance(self.scores, tuple):
            numbers |= absences(self.scores)
        return numbers | figures(found)

    def said(self, found: Comparison, candidate: str) -> str:
        """For what a gate found."""
        words = sentence(found, candidate, self.against.name)
        if isinstance(self.scores, tuple):
            return f"{words}; {found.method}"
        return words + said_of_absences(self.scores, candidate, self.against.name)


def compare_pairs(pairs: Pairs, confidence: float, margin: float) -> Comparison:
    """Hold the difference of paired scores against ``margin``."""
    return compare(
        [item.candidate for item in pairs.items],
        [item.against for item in pairs.items],
        confidence=confidence,
        margin=margin,
    )


def absences(pairs: Pairs) -> dict[str, Number]:
    """How many answers there were not, for programs."""
    return {"candidate_missing": pairs.missing, "left_out": pairs.left_out}


def said_of_absences(pairs: Pairs, candidate: str, against: str) -> str:
    """How many answers there were not, for people."""
    said = ""
    if pairs.missing:
        said += f"; {pairs.missing} that {candidate} did not answer count as failed"
    if pairs.left_out:
        said += f"; {pairs.left_out} that {against} did not answer are left out"
    return said


def pick(case: Case, asked: Asked, against: Subject) -> Evidence | str:
    """What counts, or why nothing does. Scores of items come before means alone."""
    evaluator, dataset, content = asked
    both = (case.candidate, against)
    found = case.find(*both, dataset=dataset, evaluator=evaluator, dataset_sha256=content)
    if found.run is not None:
        pairs = pair(case.index, found.run, evaluator, case.candidate.name, against.name)
        if pairs.items:
            return Evidence(found.run, against, pairs)
        return f"{called(found.run)} has no score of {against.name} by {evaluator}"
    totals: list[tuple[Run, Total]] = []
    for subject in both:
        one = case.find(
            subject, dataset=dataset, evaluator=evaluator, dataset_sha256=content, totals=True
        )
        total = None if one.run is None else total_of(one.run, evaluator, subject.name)
        if one.run is None or total is None:
            return f"nothing of {subject.name}: {one.why}" if totals else found.why
        totals.append((one.run, total))
    return _of_two_runs(case, evaluator, against, *totals)


def _of_two_runs(
    case: Case, evaluator: str, against: Subject, mine: tuple[Run, Total], theirs: tuple[Run, Total]
) -> Evidence | str:
    """What was imported of one version each, if it was measured alike; paired if items are known."""
    (run, total), (other_run, other) = mine, theirs
    for what, one, two in (
        ("contents of the data set", run.dataset_sha256, other_run.dataset_sha256),
        ("evaluators", run.evaluators.get(evaluator), other_run.evaluators.get(evaluator)),
        ("sampling", dict(run.sampling), dict(other_run.sampling)),
    ):
        if one != two:
            return f"{called(run)} and {called(other_run)} can't be compared: different {what}"
    pairs = pair(case.index, run, evaluator, case.candidate.name, against.name, other=other_run)
    if pairs.items and len(pairs.items) > pairs.missing:
        return Evidence(run, against, pairs)
    means = (
        Mean(total.mean, total.stderr, total.items),
        Mean(other.mean, other.stderr, other.items),
    )
    return Evidence(run, against, means)
