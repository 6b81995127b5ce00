"""Rates and means with 95 % intervals, from counts and sums that add up over replicas. Pure.

They are for one look at numbers: looking again and again until one of them convinces is what the
gates of a rollout are for (``rollout/statistics.py``).
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

Z: Final = NormalDist().inv_cdf(0.975)
"""Standard deviations on either side that hold 95 % of a normal distribution."""


class Interval(NamedTuple):
    """Where the true value lies, with 95 % confidence."""

    low: float
    high: float


class Moments:
    """How many numbers, their sum and the sum of their squares.

    Attributes:
        count: how many.
        total: their sum.
        squares: the sum of their squares.
    """

    __slots__ = ("count", "squares", "total")

    def __init__(self, count: int = 0, total: float = 0.0, squares: float = 0.0) -> None:
        self.count, self.total, self.squares = count, total, squares

    def add(self, value: float) -> None:
        """Count one number."""
        self.count += 1
        self.total += value
        self.squares += value * value

    def merge_json(self, data: Sequence[float]) -> None:
        """Add what :meth:`to_json` gives."""
        count, total, squares = data
        self.count += int(count)
        self.total += total
        self.squares += squares

    def to_json(self) -> list[float]:
        """``[count, sum, sum of squares]``."""
        return [self.count, self.total, self.squares]

    @property
    def mean(self) -> float | None:
        """The mean; None of no numbers."""
        return self.total / self.count if self.count else None

    @property
    def interval(self) -> Interval | None:
        """Normal interval of the mean, from the sample's variance; None of fewer than two."""
        if self.count < 2:  # noqa: PLR2004 - one number has no variance
            return None
        mean = self.total / self.count
        variance = max(0.0, self.squares - self.total * mean) / (self.count - 1)
        margin = Z * math.sqrt(variance / self.count)
        return Interval(mean - margin, mean + margin)


def wilson(hits: int, total: int) -> Interval | None:
    """Interval of a rate; None of no observations.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of
    the American Statistical Association 22, 1927: the rates that lie within Z of their own standard
    deviations of the one seen.
    """
    if not total:
        return None
    share, spread = hits / total, Z * Z / total
    centre = (share + spread / 2.0) / (1.0 + spread)
    margin = math.sqrt(share * (1.0 - share) * spread + spread * spread / 4.0) / (1.0 + spread)
    return Interval(max(0.0, centre - margin), min(1.0, centre + margin))
