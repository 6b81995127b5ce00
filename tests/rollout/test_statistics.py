from __future__ import annotations

import math
import sys
import warnings
from itertools import product
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt_serve.rollout.histogram import Histogram
from softprompt_serve.rollout.statistics import (
    Block,
    evidence_above,
    log_bayes_factor,
    mixed,
    quantile_bounds,
    rank_bounds,
    rate_bounds,
    wagers,
)

rates = st.floats(0.001, 0.999)


@pytest.fixture(scope="module")
def multinomial() -> Any:
    """savvi's Dirichlet-mixture test; of two kinds it is the beta mixture."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        # It imports matplotlib, which it does not declare and needs for plots alone, and its
        # docstrings have escapes that newer Pythons warn of when they compile them.
        warnings.simplefilter("ignore")
        for name in ("matplotlib", "matplotlib.pyplot"):
            patch.setitem(sys.modules, name, ModuleType(name))
        from savvi.multinomial import Multinomial  # noqa: PLC0415 - only with the stand-in

        yield Multinomial


def chance(hits: int, total: int, rate: float) -> float:
    return math.comb(total, hits) * rate**hits * (1 - rate) ** (total - hits)


@pytest.mark.parametrize(("rate", "weight"), [(0.25, 4.0), (0.5, 1.0), (0.0625, 32.0)])
def test_the_bayes_factor_is_savvis_at_every_step(
    multinomial: Any, rate: float, weight: float
) -> None:
    theirs = multinomial(0.05, np.array([rate, 1 - rate]), k=weight)
    hits = misses = 0
    for more_hits, more_misses in [(1, 0), (0, 3), (2, 5), (0, 40), (30, 1)]:
        theirs.update(np.array([more_hits, more_misses]))
        hits, misses = hits + more_hits, misses + more_misses
        ours = log_bayes_factor(hits, misses, rate, weight * rate, weight * (1 - rate))
        assert ours == pytest.approx(np.log(theirs.odds), abs=1e-9)


@pytest.mark.parametrize(("hits", "total"), [(5, 75), (1, 1000), (40, 60)])
def test_bounds_on_a_rate_are_savvis(multinomial: Any, hits: int, total: int) -> None:
    theirs = multinomial(0.05, np.array([0.5, 0.5]), k=1.0)  # a prior of 1/2, 1/2
    theirs.update(np.array([hits, total - hits]))
    theirs.infer()
    assert rate_bounds(hits, total, 0.05) == pytest.approx(theirs.conf_int[0], rel=1e-4, abs=1e-6)


@given(st.integers(1, 12), rates)
def test_a_bayes_factor_is_a_fair_game(total: int, rate: float) -> None:
    expected = sum(
        chance(hits, total, rate) * math.exp(log_bayes_factor(hits, total - hits, rate))
        for hits in range(total + 1)
    )
    assert expected == pytest.approx(1.0)


@given(st.integers(1, 12), rates, st.floats(0.0, 1.0))
def test_evidence_above_a_bound_is_at_best_fair_below_it(
    total: int, bound: float, part: float
) -> None:
    rate = bound * part
    expected = sum(
        chance(hits, total, rate) * math.exp(evidence_above(hits, total, bound))
        for hits in range(total + 1)
    )
    assert expected <= 1.0 + 1e-9


@given(
    st.tuples(st.integers(1, 6), st.integers(1, 6)), rates, st.floats(0.0, 0.5), rates, st.data()
)
def test_wagers_are_at_best_fair_whatever_the_rates_and_the_guess(
    answers: tuple[int, int], guess: float, increase: float, true: float, data: st.DataObject
) -> None:
    (candidate, baseline), part = answers, data.draw(st.floats(0.0, 1.0))
    allowed = min(1.0, (true + increase) * part)
    expected = np.zeros(8)
    for hits, base_hits in product(range(candidate + 1), range(baseline + 1)):
        gains = wagers(Block(candidate, hits, baseline, base_hits), guess, increase)
        likely = chance(hits, candidate, allowed) * chance(base_hits, baseline, true)
        expected += likely * np.exp(gains)
    assert (expected <= 1.0 + 1e-9).all()


def test_wagers_win_where_the_candidate_is_worse() -> None:
    logs = np.zeros(8)
    for _ in range(40):
        logs += wagers(Block(10, 1, 90, 1), 0.01, 0.0)
    assert mixed(list(logs)) > math.log(1000)


def test_a_margin_is_allowed() -> None:
    block = Block(100, 3, 1000, 10)
    without, within = wagers(block, 0.01, 0.0), wagers(block, 0.01, 0.05)
    assert mixed(within) < 0.0 < mixed(without)


def test_a_margin_that_allows_everything_is_never_exceeded() -> None:
    assert wagers(Block(5, 5, 5, 0), 0.3, 0.7) == [0.0] * 8


def test_one_hit_is_proof_where_none_are_allowed() -> None:
    assert evidence_above(0, 1000, 0.0) == 0.0
    assert evidence_above(1, 1000, 0.0) == math.inf


def test_nothing_is_above_one() -> None:
    assert evidence_above(10, 10, 1.0) == 0.0


def test_no_answers_bound_nothing() -> None:
    assert rate_bounds(0, 0, 0.05) == (0.0, 1.0)
    assert quantile_bounds(Histogram("seconds"), 0.99, 0.05) == (0.0, math.inf)


@given(st.integers(0, 500), st.integers(1, 500), st.floats(0.001, 0.2))
def test_bounds_hold_the_estimate_and_are_the_wider_the_more_certain(
    hits: int, total: int, alpha: float
) -> None:
    hits = min(hits, total)
    low, high = rate_bounds(hits, total, alpha)
    surer = rate_bounds(hits, total, alpha / 10)
    assert surer.low <= low <= hits / total <= high <= surer.high


def test_bounds_on_a_rate_hold_at_all_times_together() -> None:
    random, missed = np.random.default_rng(0), 0
    for _ in range(300):
        hits = (random.random(400) < 0.05).cumsum()
        looks = (rate_bounds(int(hits[n]), n + 1, 0.1) for n in range(0, 400, 5))
        missed += any(not low <= 0.05 <= high for low, high in looks)
    assert missed / 300 <= 0.1


def test_bounds_on_a_quantile_hold_at_all_times_together() -> None:
    random, missed = np.random.default_rng(0), 0
    true = math.exp(0.5 * 1.2815515655446004)  # the 0.9-quantile
    for _ in range(200):
        histogram, held = Histogram("seconds"), True
        for chunk in np.exp(0.5 * random.standard_normal((40, 10))):
            for value in chunk:
                histogram.add(value)
            low, high = quantile_bounds(histogram, 0.9, 0.1)
            held &= low <= true <= high
        missed += not held
    assert missed / 200 <= 0.1


def test_bounds_on_a_quantile_become_narrow() -> None:
    histogram = Histogram("seconds")
    for value in np.exp(0.5 * np.random.default_rng(0).standard_normal(20_000)):
        histogram.add(value)
    low, high = quantile_bounds(histogram, 0.5, 0.05)
    assert 0.93 < low < 1.0 < high < 1.07


def test_a_quantile_of_equal_values_is_in_their_bucket() -> None:
    histogram = Histogram("tokens")
    for _ in range(1000):
        histogram.add(256)
    low, high = quantile_bounds(histogram, 0.5, 0.05)
    assert low < 256 <= high < 1.03 * low


@given(st.integers(1, 2000), st.floats(0.01, 0.99))
def test_ranks_hold_the_middle(total: int, q: float) -> None:
    low, high = rank_bounds(total, q, 0.05)
    assert 0 <= low <= q * total + 1
    assert q * total - 1 <= high <= total
