"""Confidence bounds on a mean, by resampling. Pure; NumPy alone.

Efron's BCa interval (1987, "Better bootstrap confidence intervals", JASA 82), from
:data:`RESAMPLES` seeded resamples. Above :data:`MANY` values, where those would take seconds and
their own noise is larger than any error of the formula, the same bounds come from ABC, which is BCa
worked out without resampling (DiCiccio and Efron 1992, "More accurate confidence intervals in
exponential families", Biometrika 79).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESAMPLES: Final = 10_000
SEED: Final = 20_260_101
"""Fixed: the same evidence must give the same verdict."""

MANY: Final = 500
"""Values up to which resamples are drawn."""

_CHUNK: Final = 1 << 19
"""Draws at once: as many as stay in the processor's cache."""

_NORMAL: Final = NormalDist()


class Bounds(Protocol):
    """One-sided confidence bounds on a mean."""

    def bound(self, share: float) -> float:
        """The bound below which the mean is with chance ``share``."""

    def share(self, bound: float) -> float:
        """:meth:`bound` the other way round: the p-value of a mean of ``bound`` or less."""


def bounds_of(values: NDArray[np.float64]) -> Bounds:
    """Bounds on the mean of what ``values`` ``[n]`` were drawn from; they must not all be equal."""
    return Bca.of(values) if values.size <= MANY else Abc.of(values)


@dataclass(frozen=True, slots=True)
class Bca:
    """Means of resamples, ascending, with Efron's bias correction and acceleration."""

    means: NDArray[np.float64]
    bias: float
    acceleration: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Bca:
        """Draw resamples of ``values``."""
        mean = float(values.mean())
        moves = np.sort(_resampled(values - mean))
        below = float((moves < 0.0).mean() + (moves == 0.0).mean() / 2.0)
        return cls(moves + mean, _NORMAL.inv_cdf(_inside(below)), _acceleration(values))

    def bound(self, share: float) -> float:
        """See :class:`Bounds`."""
        w = self.bias + _NORMAL.inv_cdf(share)
        corrected = self.bias + w / (1.0 - self.acceleration * w)
        return float(np.quantile(self.means, _NORMAL.cdf(corrected)))

    def share(self, bound: float) -> float:
        """See :class:`Bounds`."""
        below = float(np.searchsorted(self.means, bound, side="right")) / self.means.size
        w = _NORMAL.inv_cdf(_inside(below)) - self.bias
        return _NORMAL.cdf(w / (1.0 + self.acceleration * w) - self.bias)


@dataclass(frozen=True, slots=True)
class Abc:
    """What ABC needs of a mean: itself, its standard error, and the acceleration.

    The bound is ``mean + error · w / (1 - a w)²`` with ``w = a + z``: a mean is linear in the
    weights of the values, so that its bias correction is the acceleration and no other term is left.
    """

    mean: float
    error: float
    acceleration: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Abc:
        """Measure ``values``."""
        error = float(values.std()) / math.sqrt(values.size)
        return cls(float(values.mean()), error, _acceleration(values))

    def bound(self, share: float) -> float:
        """See :class:`Bounds`."""
        w = self.acceleration + _NORMAL.inv_cdf(share)
        return self.mean + self.error * w / (1.0 - self.acceleration * w) ** 2

    def share(self, bound: float) -> float:
        """See :class:`Bounds`; the smaller root of ``far (1 - a w)² = w``."""
        far = (bound - self.mean) / self.error
        crossed = self.acceleration * far
        w = 2.0 * far / (1.0 + 2.0 * crossed + math.sqrt(max(0.0, 1.0 + 4.0 * crossed)))
        return _NORMAL.cdf(w - self.acceleration)


def _acceleration(values: NDArray[np.float64]) -> float:
    centred = values - values.mean()
    return float((centred**3).sum() / (6.0 * (centred**2).sum() ** 1.5))


def _resampled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of :data:`RESAMPLES` samples with replacement, of as many values each."""
    small = values.astype(np.float32)  # centred, so that nothing is lost
    random = np.random.Generator(np.random.SFC64(SEED))
    means = np.empty(RESAMPLES)
    rows = max(1, _CHUNK // values.size)
    for start in range(0, RESAMPLES, rows):
        some = min(rows, RESAMPLES - start)
        drawn = random.integers(0, values.size, size=(some, values.size), dtype=np.uint16)
        means[start : start + some] = small.take(drawn).mean(axis=1)
    return means


def _inside(share: float) -> float:
    """A share that is never quite 0 or 1, as finitely many resamples can't tell."""
    return min(max(share, 1.0 / (RESAMPLES + 1)), RESAMPLES / (RESAMPLES + 1))
