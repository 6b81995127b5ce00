"""Statistics of two versions on the same items. Pure; NumPy alone.

A :class:`Comparison` always has a two-sided interval of the difference at ``confidence``, and is
decided by its lower end: so one-sided tests run at half of what the interval leaves out, as ICH E9
(1998, section 5.5) recommends, and what is shown is what decides.

- *Verdicts* (values 0 and 1 alone): McNemar's exact test (1947), a binomial test on the items where
  the versions differ; the interval is Tango's score interval (1998, "Equivalence test and
  confidence interval for the difference in proportions for the paired-sample design", Statistics in
  Medicine 17), which stays honest where few items differ or none. Fagerland, Lydersen and Laake
  (2014, "Recommended tests and confidence intervals for paired binomial proportions") recommend it.
- *Means* (any values): the bootstrap of paired differences, as in
  :mod:`softprompt_serve.release.bootstrap`.
- *Unpaired means* (no items known): a normal interval of the difference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from softprompt_serve.release.bootstrap import MANY, RESAMPLES, bounds_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

EXACT: Final = "McNemar's exact test, Tango's score interval"
SCORE: Final = "Tango's score test and interval"
BOOTSTRAP: Final = f"paired bootstrap, BCa interval of {RESAMPLES:,} resamples"
ANALYTIC: Final = "paired bootstrap, BCa interval by ABC"
SPARSE: Final = "paired bootstrap, widened by Tango's score interval as few items differ"
UNPAIRED: Final = "normal interval of two unpaired means"

POWER: Final = 0.8
_FEW: Final = 10
"""Items that differ below which resampling sees too little of what is rare."""

_HALVINGS: Final = 60
_NORMAL: Final = NormalDist()


class Interval(NamedTuple):
    """Bounds on a difference."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two versions' scores say about ``candidate - against``.

    Attributes:
        items: how many were compared; of two unpaired means, the smaller number.
        candidate_mean, against_mean, difference: means, and candidate's minus the other's.
        low, high: the difference's two-sided interval.
        confidence: of that interval.
        margin: what the difference is held against; negative if a drop is allowed.
        p_value: one-sided, of a difference of ``margin`` or less.
        better, worse: items on which the candidate scored higher, and lower.
        spread: standard deviation of one item's difference.
        method: how all this was found.
    """

    items: int
    candidate_mean: float
    against_mean: float
    difference: float
    low: float
    high: float
    confidence: float
    margin: float
    p_value: float
    better: int
    worse: int
    spread: float
    method: str

    @property
    def alpha(self) -> float:
        """What ``p_value`` must not exceed."""
        return (1.0 - self.confidence) / 2.0

    @property
    def exceeds(self) -> bool:
        """Whether the difference is above the margin, by the interval and by the test."""
        return self.low > self.margin and self.p_value <= self.alpha

    @property
    def lost(self) -> bool:
        """Whether the candidate is certainly worse."""
        return self.high < 0.0


def compare(
    candidate: Sequence[float] | NDArray[np.float64],
    against: Sequence[float] | NDArray[np.float64],
    *,
    confidence: float,
    margin: float = 0.0,
) -> Comparison:
    """Compare scores of the same items, in the same order; at least one.

    Raises:
        ValueError: no items, or not as many of both.
    """
    mine, theirs = np.asarray(candidate, np.float64), np.asarray(against, np.float64)
    if mine.shape != theirs.shape or mine.ndim != 1 or not mine.size:
        msg = f"expected scores of the same items, found shapes {mine.shape} and {theirs.shape}"
        raise ValueError(msg)
    differences = mine - theirs
    better, worse = int((differences > 0).sum()), int((differences < 0).sum())
    both = np.concatenate((mine, theirs))
    if bool(np.isin(both, (0.0, 1.0)).all()):
        method = EXACT if margin == 0.0 else SCORE
        low, high = score_interval(better, worse, mine.size, confidence)
        if margin == 0.0:
            p_value = exact_p(better, worse)
        else:
            p_value = _NORMAL.cdf(-_score(better, worse, mine.size, margin))
    else:
        scale = max(1.0, float(np.ptp(both)))
        method, (low, high), p_value = _of_means(differences, confidence, margin, scale)
    return Comparison(
        items=mine.size,
        candidate_mean=float(mine.mean()),
        against_mean=float(theirs.mean()),
        difference=float(differences.mean()),
        low=low,
        high=high,
        confidence=confidence,
        margin=margin,
        p_value=p_value,
        better=better,
        worse=worse,
        spread=float(differences.std()),
        method=method,
    )


class Mean(NamedTuple):
    """A mean of ``items`` values from 0 to 1; ``stderr`` None is unknown."""

    mean: float
    stderr: float | None
    items: int

    def error(self) -> float:
        """The standard error, or the largest that it can be.

        Values from 0 to 1 with a given mean vary most if all are 0 or 1 (Bhatia and Davis 2000, "A
        better bound on the variance"), so the binomial error is never too small. Where it is 0,
        four items are added, two of them right (Agresti and Coull 1998).
        """
        if self.stderr:
            return self.stderr
        mean, items = self.mean, self.items
        if self.stderr == 0.0 or mean in (0.0, 1.0):
            mean, items = (mean * items + 2.0) / (items + 4.0), items + 4
        return math.sqrt(mean * (1.0 - mean) / items)


def compare_means(
    candidate: Mean, against: Mean, *, confidence: float, margin: float = 0.0
) -> Comparison:
    """Compare two means of which no items are known, as if they were of different ones."""
    items = min(candidate.items, against.items)
    difference = candidate.mean - against.mean
    error = math.hypot(candidate.error(), against.error())
    reach = _two_sided(confidence) * error
    return Comparison(
        items=items,
        candidate_mean=candidate.mean,
        against_mean=against.mean,
        difference=difference,
        low=difference - reach,
        high=difference + reach,
        confidence=confidence,
        margin=margin,
        p_value=_NORMAL.cdf((margin - difference) / error),
        better=0,
        worse=0,
        spread=error * math.sqrt(items),
        method=UNPAIRED,
    )


def items_needed(found: Comparison) -> int | None:
    """About how many items would show the difference to be above its margin, if it stays as it is.

    In four tries of five (:data:`POWER`): ``((z_confidence + z_power) · spread / gap)²`` (Lachin
    1981, "Introduction to sample size determination and power analysis for clinical trials"), and
    no less than Tango's interval asks for if no item differs, ``z² (1 / gap - 1)``. Two significant
    digits. None if the difference is not above the margin: no number of items would show it.
    """
    gap = found.difference - found.margin
    if gap <= 0.0:
        return None
    z = _two_sided(found.confidence)
    needed = ((z + _NORMAL.inv_cdf(POWER)) * found.spread / gap) ** 2
    needed = max(needed, z * z * (1.0 / gap - 1.0), found.items + 1.0)
    unit = 10.0 ** max(0, math.floor(math.log10(needed)) - 1)
    return math.ceil(needed / unit) * round(unit)


def exact_p(better: int, worse: int) -> float:
    """McNemar's exact test, one-sided.

    The chance of ``better`` or more of the items that differ, if each was as likely to differ
    either way.
    """
    total = better + worse
    halves = math.lgamma(total + 1) - total * math.log(2.0)
    terms = (
        math.exp(halves - math.lgamma(k + 1) - math.lgamma(total - k + 1))
        for k in range(better, total + 1)
    )
    return min(1.0, math.fsum(terms))


def score_interval(better: int, worse: int, items: int, confidence: float) -> Interval:
    """Tango's interval of ``(better - worse) / items``: what his score test does not reject."""
    z = _two_sided(confidence)
    return Interval(_score_low(better, worse, items, z), -_score_low(worse, better, items, z))


def _score_low(better: int, worse: int, items: int, z: float) -> float:
    outside, inside = -1.0, (better - worse) / items
    for _ in range(_HALVINGS):
        middle = (outside + inside) / 2.0
        if _score(better, worse, items, middle) > z:
            outside = middle
        else:
            inside = middle
    return outside


def _score(better: int, worse: int, items: int, difference: float) -> float:
    """Tango's statistic for a true ``difference``: about standard normal, falling in it.

    ``q``, the chance of "worse", is its most likely value under that difference: the larger root of
    ``2n q² - (b + c - (2n - b + c) d) q - c d (1 - d) = 0``.
    """
    d, discordant = difference, better + worse
    half = discordant - (2 * items - better + worse) * d
    root = math.sqrt(max(0.0, half * half + 8.0 * items * worse * d * (1.0 - d)))
    q = max(0.0, (root + half) / (4.0 * items))
    variance = items * (2.0 * q + d * (1.0 - d))
    distance = better - worse - items * d
    if variance <= 0.0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def _of_means(
    differences: NDArray[np.float64], confidence: float, margin: float, scale: float
) -> tuple[str, Interval, float]:
    """Method, interval and p-value of a mean difference; ``scale`` is the widest range of a score.

    Where fewer than :data:`_FEW` items differ, resampling knows nothing of what is rare: each of
    them then counts as a whole difference (``scale``), and the wider interval is taken.
    """
    better, worse = int((differences > 0).sum()), int((differences < 0).sum())
    if not np.ptp(differences):
        low = high = float(differences[0])
        p_value = 1.0 / (RESAMPLES + 1) if low > margin else 1.0
    else:
        bounds = bounds_of(differences)
        low, high = bounds.bound((1.0 - confidence) / 2.0), bounds.bound((1.0 + confidence) / 2.0)
        p_value = bounds.share(margin)
    if better + worse >= _FEW:
        method = BOOTSTRAP if differences.size <= MANY else ANALYTIC
        return method, Interval(low, high), p_value
    rare = score_interval(better, worse, differences.size, confidence)
    held = max(-1.0, min(1.0, margin / scale))
    return (
        SPARSE,
        Interval(min(low, rare.low * scale), max(high, rare.high * scale)),
        max(p_value, _NORMAL.cdf(-_score(better, worse, differences.size, held))),
    )


def _two_sided(confidence: float) -> float:
    return _NORMAL.inv_cdf((1.0 + confidence) / 2.0)
