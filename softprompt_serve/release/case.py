"""A case: everything that a judgement looks at, and which runs of it count. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from shlex import quote
from typing import TYPE_CHECKING, Final, NamedTuple

from softprompt_serve.release.drift import PARTS, Prints
from softprompt_serve.release.policy import BASE, BASELINE
from softprompt_serve.release.verdict import short

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from softprompt_serve.release.evidence import Answer, Base, Run, Score, Total
    from softprompt_serve.release.policy import Policy
    from softprompt_serve.release.verdict import Subject

DAY: Final = 86_400.0
_AHEAD: Final = 3_600.0
"""Seconds by which another machine's clock may be ahead."""

_LISTED: Final = 2

Scores = dict[str, "Score"]
"""By item."""


@dataclass(slots=True)
class Index:
    """Scores and answers of runs by whom they are of, read once for each run."""

    _scores: dict[str, dict[tuple[str, str], Scores]] = field(default_factory=dict)

    def scores(self, run: Run, evaluator: str, version: str) -> Scores:
        """Of one version by one evaluator."""
        found = self._scores.get(run.id)
        if found is None:
            found = self._scores[run.id] = {}
            for score in run.scores:
                found.setdefault((score.evaluator, score.version), {})[score.item] = score
        return found.get((evaluator, version), {})


class Found(NamedTuple):
    """A run that counts, or why there is none."""

    run: Run | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """What is judged, by what, on what.

    Attributes:
        prompt: the prompt's name, for hints.
        policy: what is asked.
        candidate: of whom.
        baseline: what the policy's baseline stands for; None if there is no such version.
        versions: every version of the prompt that can be compared with.
        runs: the evidence, newest first.
        served: the base model that is served.
        now: Unix time.
        declared: cohorts that the server knows.
        index: of the runs.
    """

    prompt: str
    policy: Policy
    candidate: Subject
    baseline: Subject | None
    versions: Sequence[Subject]
    runs: Sequence[Run]
    served: Base
    now: float
    declared: Collection[str] = ()
    index: Index = field(default_factory=Index)

    def subject(self, against: str) -> Subject | None:
        """What ``baseline``, ``base`` or a version's name stands for."""
        if against == BASELINE:
            return self.baseline
        alive = [version for version in self.versions if version.state != "removed"]
        if against == BASE:
            return next((version for version in reversed(alive) if version.kind == BASE), None)
        return next((version for version in alive if version.name == against), None)

    def remedy(self, dataset: str, evaluator: str | None, *others: Subject | None) -> str:
        """What to do where no run counts; ``evaluator`` None is whichever are used there."""
        if self.policy.same_base and self.served.fingerprint is None:
            return (
                "Serve the base model from a directory, so that its weights have a fingerprint, or "
                "set `same_base: false`."
            )
        subjects = [subject.name for subject in (*others, self.candidate) if subject is not None]
        names = list(dict.fromkeys(subjects))
        if self._imported(dataset, evaluator):
            return (
                f"Import results of {' and of '.join(names)}: `softprompt-serve eval import "
                f"--prompt {self.prompt} --version {names[-1]} --lm-eval RESULTS.json`."
            )
        used = [evaluator] if evaluator else self._evaluators(dataset)
        return (
            f"Run `softprompt-serve eval run --prompt {self.prompt} --versions {','.join(names)} "
            f"--dataset {quote(dataset)}.jsonl --evaluators {quote(','.join(used))}`."
        )

    def _imported(self, dataset: str, evaluator: str | None) -> bool:
        """Whether results come from elsewhere; lm-eval's are called ``task/metric``."""
        sources = {run.source for run in self.runs if run.dataset == dataset}
        if sources:
            return "run" not in sources
        return evaluator is not None and "/" in evaluator and ":" not in evaluator

    def _evaluators(self, dataset: str) -> list[str]:
        asked = (*self.policy.win, *self.policy.hold)
        named = [one.evaluator for one in asked if one.dataset == dataset]
        found = named or [evaluator for evaluator, of in self.measured() if of == dataset]
        return list(dict.fromkeys(found)) or ["EVALUATORS"]

    def bring(self, against: str) -> str:
        """What to do where there is nobody to compare with."""
        if against == BASELINE:
            return (
                "Import a hard version, and name it, or an alias of it, as the policy's baseline; "
                f"now that is {self.policy.baseline}."
            )
        if against == BASE:
            return "Import a version of kind base, or name another version in `against`."
        return f"Name a version that exists in `against`, not {against}."

    def measured(self) -> list[tuple[str, str]]:
        """Every ``(evaluator, dataset)`` of which the evidence says anything, in order."""
        return sorted({(name, run.dataset) for run in self.runs for name in evaluators_of(run)})

    def find(
        self,
        *subjects: Subject,
        dataset: str,
        evaluator: str,
        dataset_sha256: str | None = None,
        totals: bool = False,
    ) -> Found:
        """The newest run that has all ``subjects`` on that data set by that evaluator, and counts.

        It has scores of items, of any of them; or, with ``totals``, the first one's mean.
        """
        refused: list[str] = []
        for run in self.runs:
            if run.dataset != dataset or evaluator not in evaluators_of(run):
                continue
            why = self.objection(run, *subjects)
            if why is None and dataset_sha256 not in (None, run.dataset_sha256):
                why = f"is on another content of {dataset}"
            if why is not None:
                refused.append(f"{called(run)} {why}")
            elif self._has(run, evaluator, subjects, totals=totals):
                return Found(run)
        if not refused:
            return Found(None, f"no run of {evaluator} on {dataset}")
        rest = f"; and {len(refused) - _LISTED} more" if len(refused) > _LISTED else ""
        return Found(None, "no run that counts: " + "; ".join(refused[:_LISTED]) + rest)

    def _has(self, run: Run, evaluator: str, subjects: Sequence[Subject], *, totals: bool) -> bool:
        if totals:
            return total_of(run, evaluator, subjects[0].name) is not None
        return any(self.index.scores(run, evaluator, subject.name) for subject in subjects)

    def objection(self, run: Run, *subjects: Subject) -> str | None:
        """Why a run does not count for these versions, here and now; None if it does."""
        return next(self._objections(run, subjects), None)

    def _objections(self, run: Run, subjects: Sequence[Subject]) -> Iterator[str]:
        for subject in subjects:
            digest = run.digests.get(subject.name)
            if digest is None:
                yield f"does not have {subject.name}"
            elif digest != subject.digest:
                yield (
                    f"asked another {subject.name} ({short(digest)}, now it is "
                    f"{short(subject.digest)})"
                )
        if self.policy.same_base and (why := _differs(run.base, self.served)):
            yield why
        age = self.now - run.at
        if age > self.policy.max_age_days * DAY:
            yield f"is {age / DAY:.0f} days old, at most {self.policy.max_age_days:g} count"
        if age < -_AHEAD:
            yield "is dated in the future"


def called(run: Run) -> str:
    """A run's short name, for people."""
    return f"run {short(run.id)} of {datetime.fromtimestamp(run.at, UTC):%Y-%m-%d}"


def evaluators_of(run: Run) -> set[str]:
    """Every evaluator of which a run says anything."""
    return {*run.evaluators, *(total.evaluator for total in run.totals)}


def total_of(run: Run, evaluator: str, version: str) -> Total | None:
    """A version's result where it is known as a mean alone."""
    asked = (evaluator, version)
    return next((total for total in run.totals if (total.evaluator, total.version) == asked), None)


def answers_of(run: Run, version: str) -> list[Answer]:
    """A version's answers."""
    return [answer for answer in run.answers if answer.version == version]


def _differs(made_on: Base, served: Base) -> str | None:
    """What differs between two base models, or can't be compared.

    Weights must be known on both sides. Tokenizer and chat template may be unknown on both, as
    not every model has them as files.
    """
    if served.fingerprint is None:
        return "can't be compared: the fingerprint of the served base model is unknown"
    if made_on.fingerprint is None:
        return "was made on a base model of unknown fingerprint"
    both = Prints.of(served).parts(), Prints.of(made_on).parts()
    for words, ours, theirs in zip(PARTS, *both, strict=True):
        if ours != theirs:
            made, now = (short(value) if value else "unknown" for value in (theirs, ours))
            return f"was made on another base model ({words} {made}, served {now})"
    return None
