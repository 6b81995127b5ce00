"""Scores of two versions, paired by item. Pure.

An error is not an absence: an item that the candidate did not answer, and the other version did,
counts as failed by the candidate. An item that the other version did not answer is left out, so
that nobody wins by another's errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from softprompt_serve.release.case import Index
    from softprompt_serve.release.evidence import Run


@dataclass(frozen=True, slots=True)
class Pair:
    """One item's scores.

    Attributes:
        cohort: the item's.
        candidate, against: values; the candidate's is the worst there is if it is ``missing``.
        missing: whether the candidate has no score.
    """

    cohort: str
    candidate: float
    against: float
    missing: bool


@dataclass(frozen=True, slots=True)
class Pairs:
    """What one evaluator found of two versions.

    Attributes:
        items: that the other version has a score of.
        unanswered: cohorts of the items that only the candidate has a score of.
    """

    items: tuple[Pair, ...]
    unanswered: tuple[str, ...] = ()

    @property
    def missing(self) -> int:
        """Items that count as failed by the candidate."""
        return sum(pair.missing for pair in self.items)

    @property
    def left_out(self) -> int:
        """Items that don't count."""
        return len(self.unanswered)

    def cohorts(self) -> set[str]:
        """Cohorts that have items."""
        return {pair.cohort for pair in self.items}

    def of(self, cohort: str) -> Pairs:
        """One cohort's."""
        return Pairs(
            tuple(pair for pair in self.items if pair.cohort == cohort),
            tuple(name for name in self.unanswered if name == cohort),
        )


def pair(
    index: Index,
    run: Run,
    evaluator: str,
    candidate: str,
    against: str,
    *,
    other: Run | None = None,
) -> Pairs:
    """Pair what one run has of two versions, in the order of item ids.

    With ``other``, what that run has of the version to compare with.

    An item that an evaluator scored for neither version says nothing. The worst value is 0, or the
    lowest that was given if that is negative.
    """
    mine = index.scores(run, evaluator, candidate)
    theirs = index.scores(other or run, evaluator, against)
    given = [score.value for scores in (mine, theirs) for score in scores.values()]
    worst = min(0.0, *given) if given else 0.0
    return Pairs(
        tuple(
            Pair(
                other.cohort,
                mine[item].value if item in mine else worst,
                other.value,
                missing=item not in mine,
            )
            for item, other in sorted(theirs.items())
        ),
        tuple(mine[item].cohort for item in sorted(mine.keys() - theirs.keys())),
    )


def pooled(several: Iterable[Pairs]) -> Pairs:
    """The items of several data sets together."""
    listed = list(several)
    return Pairs(
        tuple(item for pairs in listed for item in pairs.items),
        tuple(cohort for pairs in listed for cohort in pairs.unanswered),
    )
