"""Whether one version's scores of the same items have shifted between two runs. Pure; NumPy alone.

If nothing has changed, old and new score of an item might as well stand in each other's place. All
tests here ask how often such swaps move the scores as far as they have moved (randomization tests;
Fisher 1935, "The Design of Experiments"), which is exact for any kind of score and any number of
items, and uses that the items are the same.

- *Verdicts* (values 0 and 1 alone): McNemar's exact test (1947), which is the test by swaps there.
- *Graded scores*, the mean: by swaps, that is by the signs of the differences.
- *Graded scores*, the distribution: the largest distance of the two distribution functions, as of
  Kolmogorov and Smirnov, held against what swaps make of it (Romano 1989, "Bootstrap and
  randomization tests of some nonparametric hypotheses", Annals of Statistics 17). It sees what
  leaves the mean alone, such as an answer that is now either perfect or useless; Mann and Whitney's
  statistic would see once more what the mean's test does. The tables for two samples are not for
  this: they take scores for independent and without ties, and these are neither.

Many comparisons are made at once, so p-values are adjusted by Holm's method (1979, "A simple
sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6), which holds
whatever the comparisons have to do with each other: the chance that anything at all is called a
shift where nothing has changed is at most what the confidence leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import numpy as np

from softprompt_serve.release.paired import EXACT, compare, exact_p

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from softprompt_serve.release.paired import Comparison
    from softprompt_serve.release.pairs import Pairs

Direction = Literal["better", "worse", "changed", "none"]
"""``changed``: the distribution has, and the mean not certainly."""

MCNEMAR: Final = "McNemar's exact test, two-sided"
SIGNS: Final = "paired randomization test of the mean"
DISTANCE: Final = "paired randomization test of the Kolmogorov-Smirnov distance"
HOLM: Final = "Holm"

SWAPS: Final = 20_000
"""Random swaps; so no p-value is below 1 / 20,001, which is below 0.01 / 200: at 99 % confidence
200 tests can be made at once."""

SEED: Final = 20_260_101
"""Fixed: the same scores must give the same verdict."""

_ALL: Final = 13
"""Items that differ up to which all swaps are gone through."""

_PLACES: Final = 100
"""Values at most at which distribution functions are compared; of more, so many quantiles."""

_CHUNK: Final = 1 << 20
_TINY: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Test:
    """One test of one comparison.

    Attributes:
        of: ``mean`` or ``distribution``.
        method: its name.
        statistic: the difference of the means, or the distance, from 0 to 1.
        p_value: two-sided.
        adjusted: the same for all tests that were made together.
    """

    of: Literal["mean", "distribution"]
    method: str
    statistic: float
    p_value: float
    adjusted: float = 1.0


@dataclass(frozen=True, slots=True)
class Shift:
    """What has become of one version's scores by one evaluator in one cohort.

    Attributes:
        dataset, version, evaluator, cohort: of whom; ``all`` is every cohort.
        found: new minus old, with an interval that is not adjusted for there being others.
        missing: items without a new score, which count as failed.
        left_out: items without an old one.
        tests: of the mean, and where scores are graded of the distribution.
        direction: what they say.
    """

    dataset: str
    version: str
    evaluator: str
    cohort: str
    found: Comparison
    missing: int
    left_out: int
    tests: tuple[Test, ...]
    direction: Direction = "none"


class Swapped(NamedTuple):
    """What swaps say.

    Attributes:
        mean: p-value of the difference of the means.
        distance: largest distance of the two distribution functions, from 0 to 1.
        distribution: its p-value.
    """

    mean: float
    distance: float
    distribution: float


def shift_of(
    pairs: Pairs, *, dataset: str, version: str, evaluator: str, cohort: str, confidence: float
) -> Shift:
    """Compare; ``pairs`` has the new run's scores as the candidate's, and at least one item.

    The direction is for :func:`adjusted` to say, which knows how many comparisons there are.
    """
    new = np.array([pair.candidate for pair in pairs.items])
    old = np.array([pair.against for pair in pairs.items])
    found = compare(new, old, confidence=confidence)
    return Shift(
        dataset,
        version,
        evaluator,
        cohort,
        found,
        pairs.missing,
        pairs.left_out,
        _tests(old, new, found),
    )


def _tests(
    old: NDArray[np.float64], new: NDArray[np.float64], found: Comparison
) -> tuple[Test, ...]:
    if found.method == EXACT:
        return (Test("mean", MCNEMAR, found.difference, mcnemar(found.better, found.worse)),)
    said = swapped(old, new)
    return (
        Test("mean", SIGNS, found.difference, said.mean),
        Test("distribution", DISTANCE, said.distance, said.distribution),
    )


def adjusted(shifts: Sequence[Shift], confidence: float) -> tuple[Shift, ...]:
    """The shifts with p-values for all of them together, and what follows."""
    fair = iter(holm([test.p_value for shift in shifts for test in shift.tests]))
    return tuple(
        _directed(
            replace(shift, tests=tuple(replace(test, adjusted=next(fair)) for test in shift.tests)),
            1.0 - confidence,
        )
        for shift in shifts
    )


def _directed(shift: Shift, alpha: float) -> Shift:
    shown = {test.of for test in shift.tests if test.adjusted <= alpha + _TINY}
    direction: Direction = "none"
    if "mean" in shown:
        direction = "better" if shift.found.difference > 0.0 else "worse"
    elif shown:
        direction = "changed"
    return replace(shift, direction=direction)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order in which they are given."""
    made, least = [1.0] * len(p_values), 0.0
    by_size = sorted(range(len(p_values)), key=p_values.__getitem__)
    for rank, at in enumerate(by_size):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[at]))
        made[at] = least
    return made


def mcnemar(better: int, worse: int) -> float:
    """McNemar's exact test, two-sided: twice the smaller tail."""
    return min(1.0, 2.0 * exact_p(max(better, worse), min(better, worse)))


def swapped(old: NDArray[np.float64], new: NDArray[np.float64], *, swaps: int = SWAPS) -> Swapped:
    """Hold what separates ``old`` from ``new`` ``[n]`` against what swaps within items make of it.

    All swaps are gone through where at most 13 items differ; else so many random ones, with the
    scores as they are counted as one more (Phipson and Smyth 2010, "Permutation p-values should
    never be zero").
    """
    differ = old != new
    before, after = old[differ], new[differ]
    if not before.size:
        return Swapped(1.0, 0.0, 1.0)
    # An item adds its row, or once it is swapped the row's negative: the difference of its scores,
    # and at each place by how much it lifts the new distribution function over the old one.
    places = _places(np.concatenate((before, after)))
    lifts = (after[:, None] <= places).astype(np.float64) - (before[:, None] <= places)
    rows = np.column_stack((after - before, lifts))
    mean, distance = _furthest(rows.sum(axis=0, keepdims=True))
    slack = _TINY * float(np.abs(after - before).sum())
    tries, further, wider = 0, 0, 0
    for signs in _signs(before.size, swaps):
        means, distances = _furthest(signs @ rows)
        tries += len(signs)
        further += int((means >= mean - slack).sum())
        wider += int((distances >= distance - _TINY).sum())
    own = 0 if before.size <= _ALL else 1
    return Swapped(
        (further + own) / (tries + own),
        float(distance[0]) / old.size,
        (wider + own) / (tries + own),
    )


def _furthest(sums: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """From ``[tries, 1 + places]``: how far the means are apart, and the distribution functions."""
    apart = np.abs(sums)
    return apart[:, 0], apart[:, 1:].max(axis=1)


def _places(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where the distribution functions step; at the largest value both are 1."""
    steps: NDArray[np.float64] = np.unique(values)[:-1]
    if steps.size > _PLACES:
        steps = steps[np.linspace(0, steps.size - 1, _PLACES).round().astype(int)]
    return steps


def _signs(items: int, swaps: int) -> Iterator[NDArray[np.float64]]:
    """Rows of 1 and -1, ``[some, items]``: all that there are, or so many random ones."""
    if items <= _ALL:
        numbers = np.arange(1 << items)[:, None]
        yield np.where((numbers >> np.arange(items)) & 1, -1.0, 1.0)
        return
    random = np.random.Generator(np.random.SFC64(SEED))
    most = max(1, _CHUNK // items)
    for start in range(0, swaps, most):
        drawn = random.integers(0, 2, (min(most, swaps - start), items), dtype=np.int8)
        yield np.where(drawn, -1.0, 1.0)
