"""Statistics that stay valid however often they are looked at. Pure; math alone.

Two kinds, both of them tests by betting: a bet that is fair (or worse) if a hypothesis holds is
made on each new answer, and the capital won is the *evidence* against it. By Ville's inequality
(1939) the chance that a fair game ever multiplies the capital by ``1/alpha`` is at most ``alpha``,
whenever one looks and whenever one stops.

- *Confidence sequences*: bounds that hold at all times together. A rate's come from a beta mixture
  of likelihood ratios (Robbins 1970, "Statistical methods related to the law of the iterated
  logarithm"; Howard, Ramdas, McAuliffe, Sekhon 2021, "Time-uniform, nonparametric, nonasymptotic
  confidence sequences"); a quantile's from the counts below it, which are Bernoulli (Darling,
  Robbins 1967, "Confidence sequences for mean, variance, and median"; Howard, Ramdas 2022,
  "Sequential estimation of quantiles with applications to A/B testing and best-arm
  identification"). They are what is shown.
- *One-sided evidence*, which decides: :func:`evidence_above` that a rate is above a bound, and
  :func:`wagers` that the candidate's rate is above the baseline's plus a margin (after Turner, Ly,
  Grünwald 2024, "Generic E-variables for exact sequential k-sample tests that allow for optional
  stopping"). Each is a mixture over :data:`ODDS`, alternatives that say how much worse it is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

from softprompt_serve.rollout.histogram import lower_edge, upper_edge

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from softprompt_serve.rollout.histogram import Histogram

PRIOR: Final = 0.5
"""Both parameters of the beta mixture; Jeffreys' choice, sharp near 0 and 1 where rates are."""

ODDS: Final = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 40.0, 400.0)
"""The alternatives: how many times the odds at the bound are multiplied."""

_HALVINGS: Final = 40
_STAKE: Final = 0.9
"""Of the capital, at most, on one answer of the baseline: a bet must never lose everything."""


class Bounds(NamedTuple):
    """A confidence sequence's interval at one time."""

    low: float
    high: float


def log_bayes_factor(
    hits: int, misses: int, rate: float, a: float = PRIOR, b: float = PRIOR
) -> float:
    """Natural log of the evidence of a Beta(a, b) mixture against ``rate``, from counts.

    ``ln B(a + hits, b + misses) - ln B(a, b) - hits ln rate - misses ln(1 - rate)``: for each true
    rate a martingale that begins at 1, in any order of the observations.
    """
    against = _times_log(hits, rate) + _times_log(misses, 1.0 - rate)
    return _log_mixture(hits, misses, a, b) - against


def rate_bounds(hits: int, total: int, alpha: float) -> Bounds:
    """Rates not rejected by ``hits`` of ``total``: all at once true with chance 1 - alpha."""
    if total <= 0:
        return Bounds(0.0, 1.0)
    misses, seen = total - hits, hits / total
    most = _log_mixture(hits, misses, PRIOR, PRIOR) + math.log(alpha)

    def allowed(rate: float) -> bool:
        return _times_log(hits, rate) + _times_log(misses, 1.0 - rate) > most

    low = 0.0 if hits == 0 else _outermost(0.0, seen, allowed)
    high = 1.0 if misses == 0 else _outermost(1.0, seen, allowed)
    return Bounds(low, high)


def quantile_bounds(histogram: Histogram, q: float, alpha: float) -> Bounds:
    """Bounds on the ``q``-quantile of what a histogram counts, in its kind's unit.

    They are edges of buckets: the largest that has too few values below it to be at the quantile,
    the smallest that has too many.
    """
    low, high = 0.0, math.inf
    least, most = rank_bounds(histogram.count, q, alpha)
    below = 0
    for bucket, count in sorted(histogram.buckets.items()):
        if below < least:
            low = lower_edge(histogram.kind, bucket)
        below += count
        if below > most:
            high = upper_edge(histogram.kind, bucket)
            break
    return Bounds(low, high)


def rank_bounds(total: int, q: float, alpha: float) -> tuple[int, int]:
    """How few and how many of ``total`` values can lie at or below the ``q``-quantile."""
    level, centre = -math.log(alpha), min(total, round(q * total))

    def allowed(rank: int) -> bool:
        return log_bayes_factor(rank, total - rank, q) < level

    return _furthest(0, centre, allowed), _furthest(total, centre, allowed)


def evidence_above(hits: int, total: int, bound: float) -> float:
    """Log evidence that a rate is above ``bound``.

    Fair or worse as long as each observation, whatever came before it, hits with a chance of at
    most ``bound``; that chance may change.
    """
    if bound >= 1.0:
        return 0.0
    if bound <= 0.0:
        return math.inf if hits else 0.0
    misses = total - hits
    return mixed(
        [
            hits * math.log(rate / bound) + misses * math.log((1.0 - rate) / (1.0 - bound))
            for rate in alternatives(bound)
        ]
    )


class Block(NamedTuple):
    """Answers of both arms that came in the same time; hits among them."""

    candidate: int = 0
    candidate_hits: int = 0
    baseline: int = 0
    baseline_hits: int = 0


def wagers(block: Block, base: float, increase: float) -> list[float]:
    """Log gains of one block, by alternative, against "candidate's rate <= baseline's + increase".

    With x, a guess of the baseline's rate, and y = x + increase, a candidate's answer multiplies
    the capital by ``1 + A (hit - y)`` and a baseline's by ``1 - B (hit - x)``, where
    ``candidate · A = baseline · B``. If the true rates are x + d and y + d, the block's expected
    gain is ``(1 + dA)^candidate (1 - dB)^baseline``: its log is concave in d with slope 0 at 0, so
    it is at most 1 for whatever d; and for a lower rate of the candidate it is less. So rates may
    change from block to block, as long as they do for both. For increase 0 this is the e-variable
    of Turner, Ly and Grünwald; x and A are chosen to be near the best for each alternative.

    Args:
        block: both arms must have answers.
        base: the baseline's rate as expected before the block, 0 < base < 1.
        increase: the margin, at least 0.
    """
    total = block.candidate + block.baseline
    if base + increase >= 1.0:
        return [0.0] * len(ODDS)
    gains = []
    for worse in alternatives(base + increase):
        x = (block.baseline * base + block.candidate * (worse - increase)) / total
        y = x + increase
        stake = (worse - y) / (y * (1.0 - y))
        against = min(stake * block.candidate / block.baseline, _STAKE / (1.0 - x))
        stake = against * block.baseline / block.candidate
        gains.append(
            block.candidate_hits * math.log1p(stake * (1.0 - y))
            + (block.candidate - block.candidate_hits) * math.log1p(-stake * y)
            + block.baseline_hits * math.log1p(-against * (1.0 - x))
            + (block.baseline - block.baseline_hits) * math.log1p(against * x)
        )
    return gains


def alternatives(rate: float) -> list[float]:
    """Rates worse than ``rate``, 0 < rate < 1: one for each of :data:`ODDS`."""
    return [times * rate / (1.0 - rate + times * rate) for times in ODDS]


def mixed(logs: Sequence[float]) -> float:
    """Log of the mean of what ``logs`` are the logs of."""
    most = max(logs)
    if math.isinf(most):
        return most
    return most + math.log(sum(math.exp(log - most) for log in logs) / len(logs))


def _log_mixture(hits: int, misses: int, a: float, b: float) -> float:
    return _log_beta(a + hits, b + misses) - _log_beta(a, b)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _times_log(count: int, rate: float) -> float:
    if count == 0:
        return 0.0
    return count * math.log(rate) if rate > 0.0 else -math.inf


def _outermost(outside: float, inside: float, allowed: Callable[[float], bool]) -> float:
    """Where what is allowed ends between two rates; a hair too far out rather than in."""
    for _ in range(_HALVINGS):
        middle = (outside + inside) / 2.0
        if allowed(middle):
            inside = middle
        else:
            outside = middle
    return outside


def _furthest(end: int, centre: int, allowed: Callable[[int], bool]) -> int:
    """The allowed rank that is nearest to ``end``; ``centre`` is taken for allowed."""
    if allowed(end):
        return end
    outside, inside = end, centre
    while abs(outside - inside) > 1:
        middle = (outside + inside) // 2
        if allowed(middle):
            inside = middle
        else:
            outside = middle
    return inside
