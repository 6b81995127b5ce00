"""A rerun held against the stored run that it repeats: which one that is, and what has shifted. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from softprompt_serve.release.case import Index
from softprompt_serve.release.drift import Prints
from softprompt_serve.release.pairs import pair
from softprompt_serve.release.shift import shift_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from softprompt_serve.release.evidence import Base, Run
    from softprompt_serve.release.shift import Shift

ALL: Final = "all"
"""Stands for all cohorts together."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a run must have asked to be compared with another one.

    Attributes:
        dataset_sha256: of the items.
        digests: version → digest.
        evaluators: evaluator → its version; None for any.
        sampling: what requests were sent with; None for any.
    """

    dataset_sha256: str
    digests: Mapping[str, str]
    evaluators: Mapping[str, str] | None = None
    sampling: Mapping[str, object] | None = None

    def differs(self, run: Run) -> str | None:
        """In what a run asked something else, or None; it may have asked more."""
        if run.source != "run":
            return "source"
        if run.dataset_sha256 != self.dataset_sha256:
            return "dataset_sha256"
        if not self.digests.items() <= run.digests.items():
            return "digests"
        if self.evaluators is not None and not self.evaluators.items() <= run.evaluators.items():
            return "evaluators"
        if self.sampling is not None and dict(self.sampling) != dict(run.sampling):
            return "sampling"
        return None


def same_base(one: Base, other: Base) -> bool:
    """Whether two base models are one, as far as is known.

    Fingerprints decide; where the weights have none, also name and revision.
    """
    if Prints.of(one) != Prints.of(other):
        return False
    return one.fingerprint is not None or (one.name, one.revision) == (other.name, other.revision)


def reference_of(runs: Sequence[Run], question: Question, served: Base) -> Run | None:
    """The stored run that a rerun on the served base model is held against, or None.

    It is the last one on the base model before the one that is served; where there was no other,
    the first one on this. So it stays the same however often is rerun: a loss that is found is found
    again until somebody does something, and many small ones add up to one.

    Args:
        runs: newest first; with or without what they found.
        question: what must have been asked.
        served: the base model that is served.
    """
    alike = [run for run in runs if question.differs(run) is None]
    present = list(takewhile(lambda run: same_base(run.base, served), alike))
    before = alike[len(present) :]
    if before:
        return before[0]
    return present[-1] if present else None


def shifts_of(
    old: Run, new: Run, versions: Sequence[str], evaluators: Sequence[str], confidence: float
) -> Iterator[Shift]:
    """Each version by each evaluator in all cohorts together, then in each if there are several.

    Directions are for :func:`softprompt_serve.release.shift.adjusted` to say. What no run has
    scored is left out.
    """
    index = Index()
    for evaluator in evaluators:
        for version in versions:
            pairs = pair(index, new, evaluator, version, version, other=old)
            names = sorted(pairs.cohorts())
            for cohort in [ALL, *(names if len(names) > 1 else ())]:
                some = pairs if cohort == ALL else pairs.of(cohort)
                if some.items:
                    yield shift_of(
                        some,
                        dataset=new.dataset,
                        version=version,
                        evaluator=evaluator,
                        cohort=cohort,
                        confidence=confidence,
                    )
