from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from softprompt_serve.release.paired import (
    ANALYTIC,
    BOOTSTRAP,
    EXACT,
    SCORE,
    SPARSE,
    UNPAIRED,
    Comparison,
    Mean,
    compare,
    compare_means,
    exact_p,
    items_needed,
    score_interval,
)

counts = st.integers(0, 60)


def of_counts(
    better: int, worse: int, items: int, *, margin: float = 0.0, confidence: float = 0.95
) -> Comparison:
    """Verdicts of which so many are better and worse, and half of the others right."""
    same = items - better - worse
    rest = [1.0] * (same // 2) + [0.0] * (same - same // 2)
    candidate = [1.0] * better + [0.0] * worse + rest
    against = [0.0] * better + [1.0] * worse + rest
    return compare(candidate, against, confidence=confidence, margin=margin)


def statistic(better: int, worse: int, items: int, difference: float) -> float:
    """Tango's statistic with the constrained likelihood maximised by a general optimiser."""

    def against(q: float) -> float:
        same = 1.0 - 2.0 * q - difference
        logs = [(better, q + difference), (worse, q), (items - better - worse, same)]
        return -sum(count * math.log(max(share, 1e-300)) for count, share in logs if count)

    edges = max(0.0, -difference), (1.0 - difference) / 2.0
    q = optimize.minimize_scalar(against, bounds=edges, options={"xatol": 1e-13}).x
    error = math.sqrt(items * (2.0 * q + difference - difference**2))
    return (better - worse - items * difference) / error


@given(counts, counts)
def test_the_exact_test_is_scipys_binomial_test(better: int, worse: int) -> None:
    if better + worse:
        theirs = stats.binomtest(better, better + worse, 0.5, alternative="greater").pvalue
        assert exact_p(better, worse) == pytest.approx(theirs, rel=1e-9)


def test_the_exact_test_stands_many_items() -> None:
    theirs = stats.binomtest(26_000, 50_000, 0.5, alternative="greater").pvalue
    assert exact_p(26_000, 24_000) == pytest.approx(theirs, rel=1e-6)


def test_nothing_that_differs_proves_nothing() -> None:
    assert exact_p(0, 0) == 1.0


@pytest.mark.parametrize(
    ("better", "worse", "items", "low", "high"),
    [
        (1, 7, 21, -0.517, -0.026),  # airway reactivity, in Fagerland, Lydersen, Laake 2014
        (0, 0, 50, -3.8415 / 53.8415, 3.8415 / 53.8415),  # z² / (n + z²)
        (50, 0, 50, 46.1585 / 53.8415, 1.0),  # (n - z²) / (n + z²)
    ],
)
def test_the_score_interval_is_the_published_one(
    better: int, worse: int, items: int, low: float, high: float
) -> None:
    assert score_interval(better, worse, items, 0.95) == pytest.approx((low, high), abs=5e-4)


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 200))
def test_the_score_interval_ends_where_the_score_test_rejects(
    better: int, worse: int, same: int
) -> None:
    items = better + worse + same
    low, high = score_interval(better, worse, items, 0.95)
    assert statistic(better, worse, items, low) == pytest.approx(1.96, abs=1e-3)
    assert statistic(better, worse, items, high) == pytest.approx(-1.96, abs=1e-3)


@given(counts, counts, counts, st.floats(0.6, 0.99))
def test_the_score_interval_mirrors(better: int, worse: int, same: int, confidence: float) -> None:
    items = better + worse + same + 1
    low, high = score_interval(better, worse, items, confidence)
    assert score_interval(worse, better, items, confidence) == pytest.approx((-high, -low))
    assert -1.0 <= low <= (better - worse) / items <= high <= 1.0


def test_a_bound_by_the_score_interval_is_too_high_hardly_more_often_than_said() -> None:
    """Every outcome of 60 items, weighed by its chance: for no rate is it above 3.1 of 2.5 %."""
    items, worst = 60, 0.0
    outcomes = [(b, c) for b, c in product(range(items + 1), repeat=2) if b + c <= items]
    better, worse = np.array(outcomes).T
    logs = np.array([math.lgamma(n + 1) for n in range(items + 1)])
    ways = logs[items] - logs[better] - logs[worse] - logs[items - better - worse]
    lows = np.array([score_interval(b, c, items, 0.95).low for b, c in outcomes])
    for true, q in product((-0.05, -0.02, 0.02), (0.005, 0.02, 0.05, 0.1, 0.2, 0.3)):
        mine, theirs = (q, q - true) if true < 0 else (q + true, q)
        chances = np.exp(
            ways
            + better * math.log(mine)
            + worse * math.log(theirs)
            + (items - better - worse) * math.log(1 - mine - theirs)
        )
        assert chances.sum() == pytest.approx(1.0)
        worst = max(worst, chances[lows > true].sum())
    assert 0.02 < worst < 0.031


@settings(max_examples=60)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 60))
def test_verdicts_are_won_only_if_the_exact_test_says_so(
    better: int, worse: int, same: int
) -> None:
    found = of_counts(better, worse, better + worse + same)
    assert found.method == EXACT
    assert found.exceeds == (found.p_value <= 0.025 and found.low > 0.0)


def test_a_margin_on_verdicts_is_held_by_the_score_test() -> None:
    found = of_counts(30, 10, 200, margin=0.02)
    assert found.method == SCORE
    assert found.p_value == pytest.approx(stats.norm.sf(statistic(30, 10, 200, 0.02)), rel=1e-4)
    assert found.exceeds == (found.low > 0.02)


@given(
    st.integers(0, 30), st.integers(0, 30), st.integers(1, 60), st.floats(-0.3, 0.3), st.booleans()
)
def test_another_better_item_never_takes_a_win_away(
    better: int, worse: int, same: int, margin: float, instead: bool
) -> None:
    items = better + worse + same
    before = of_counts(better, worse, items, margin=margin)
    more = of_counts(better + 1, worse, items if instead else items + 1, margin=margin)
    assert more.low >= before.low - 1e-12
    assert more.exceeds or not before.exceeds


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 60))
def test_more_confidence_never_wins_more(better: int, worse: int, same: int) -> None:
    items = better + worse + same
    sure, surer = (of_counts(better, worse, items, confidence=c) for c in (0.9, 0.99))
    assert surer.low <= sure.low
    assert sure.exceeds or not surer.exceeds


def of_means(seed: int, items: int, gain: float) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    against = random.beta(2.0, 1.5, items)
    return np.clip(against + gain + 0.2 * random.standard_t(4, items), 0.0, 1.0), against


@pytest.mark.parametrize("seed", range(3))
def test_the_bootstraps_interval_is_scipys(seed: int) -> None:
    candidate, against = of_means(seed, 120, 0.05)
    found = compare(candidate, against, confidence=0.95)
    theirs = stats.bootstrap(
        (candidate - against,), np.mean, n_resamples=50_000, method="BCa", rng=seed, batch=1_000
    )
    width = found.high - found.low
    assert found.method == BOOTSTRAP
    assert (found.low, found.high) == pytest.approx(theirs.confidence_interval, abs=0.03 * width)


@pytest.mark.parametrize("items", [60, 501])
def test_the_interval_of_a_skewed_difference_is_scipys(items: int) -> None:
    differences = np.random.default_rng(3).gamma(0.2, 1.0, items) - 0.1
    found = compare(differences, np.zeros(items), confidence=0.95)
    theirs = stats.bootstrap(
        (differences,), np.mean, n_resamples=50_000, method="BCa", rng=3, batch=1_000
    )
    width = found.high - found.low
    assert (found.low, found.high) == pytest.approx(theirs.confidence_interval, abs=0.02 * width)


def test_above_five_hundred_items_the_interval_needs_no_resampling_and_is_the_same() -> None:
    candidate, against = of_means(0, 501, 0.02)
    many = compare(candidate, against, confidence=0.95)
    few = compare(candidate[:-1], against[:-1], confidence=0.95)
    assert (many.method, few.method) == (ANALYTIC, BOOTSTRAP)
    assert (many.low, many.high) == pytest.approx((few.low, few.high), abs=1e-3)
    assert many.p_value == pytest.approx(few.p_value, abs=0.02)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([60, 1_200]), st.floats(-0.1, 0.1))
def test_p_value_and_interval_of_means_say_the_same(seed: int, items: int, gain: float) -> None:
    found = compare(*of_means(seed, items, gain), confidence=0.95, margin=0.01)
    if abs(found.low - 0.01) > 1e-3:
        assert (found.low > 0.01) == (found.p_value <= 0.025)


def test_the_same_scores_give_the_same_verdict() -> None:
    candidate, against = of_means(5, 200, 0.03)
    first = compare(candidate, against, confidence=0.95)
    assert compare(candidate, against, confidence=0.95) == first


def test_equal_answers_are_no_proof_of_equality() -> None:
    values = [0.25, 0.5, 0.75] * 20
    found = compare(values, values, confidence=0.95, margin=-0.02)
    assert found.method == SPARSE
    assert (found.low, found.high) == pytest.approx(score_interval(0, 0, 60, 0.95))
    assert not found.exceeds


def test_equal_answers_to_many_items_are() -> None:
    values = [0.25, 0.5, 0.75] * 100
    assert compare(values, values, confidence=0.95, margin=-0.02).exceeds


def test_where_few_items_differ_each_counts_as_a_whole_one() -> None:
    against = [0.5] * 100
    found = compare([0.4] * 3 + [0.5] * 97, against, confidence=0.95)
    assert found.method == SPARSE
    assert found.low == pytest.approx(score_interval(0, 3, 100, 0.95).low)


def test_few_that_differ_are_weighed_in_the_evaluators_own_scale() -> None:
    against = [1.0, 5.0] * 50
    found = compare([*against[:-1], 4.0], against, confidence=0.95)
    assert found.low == pytest.approx(4.0 * score_interval(0, 1, 100, 0.95).low)


def test_scores_must_be_of_the_same_items() -> None:
    for mine, theirs in (([1.0], [1.0, 0.0]), ([], [])):
        with pytest.raises(ValueError, match="same items"):
            compare(mine, theirs, confidence=0.95)


def test_unpaired_means_are_compared_by_their_errors() -> None:
    found = compare_means(Mean(0.42, 0.012, 900), Mean(0.40, 0.016, 1000), confidence=0.95)
    assert (found.method, found.items) == (UNPAIRED, 900)
    assert (found.low, found.high) == pytest.approx((0.02 - 0.0392, 0.02 + 0.0392), abs=1e-4)
    assert found.p_value == pytest.approx(stats.norm.sf(1.0))


@pytest.mark.parametrize(
    ("mean", "error"),
    [
        (Mean(0.5, None, 100), 0.05),
        (Mean(0.5, 0.01, 100), 0.01),
        (Mean(1.0, None, 96), math.sqrt(0.98 * 0.02 / 100)),
        (Mean(0.0, 0.0, 96), math.sqrt(0.98 * 0.02 / 100)),
    ],
)
def test_an_unknown_error_is_the_largest_that_it_can_be(mean: Mean, error: float) -> None:
    assert mean.error() == pytest.approx(error)


def test_the_items_needed_find_the_difference_four_times_in_five() -> None:
    random = np.random.default_rng(0)
    found = of_counts(14, 8, 100)
    assert not found.exceeds
    needed = items_needed(found)
    assert needed is not None
    won = 0
    for better, worse, _ in random.multinomial(needed, (0.14, 0.08, 0.78), size=400):
        won += of_counts(better, worse, needed).exceeds
    assert 0.74 <= won / 400 <= 0.86


def test_no_number_of_items_shows_what_is_not_there() -> None:
    assert items_needed(of_counts(10, 10, 100)) is None
    assert items_needed(of_counts(8, 12, 100, margin=-0.03)) is None


def test_items_needed_are_never_fewer_than_there_are() -> None:
    found = of_counts(5, 0, 20)
    assert found.p_value > 0.025
    needed = items_needed(found)
    assert needed is not None
    assert needed > 20


@pytest.mark.parametrize("binary", [True, False])
def test_a_version_that_is_no_better_wins_no_more_often_than_said(binary: bool) -> None:
    random, tries, won = np.random.default_rng(1), 400, 0
    for _ in range(tries):
        both = random.random((2, 80))
        mine, theirs = (both < 0.6).astype(float) if binary else both**2
        won += compare(mine, theirs, confidence=0.95).exceeds
    # 2.5 % of 400 are 10; 18 or more of them have a chance of 1.4 %.
    assert won <= 18


@pytest.mark.parametrize("binary", [True, False])
def test_a_version_that_is_clearly_better_mostly_wins(binary: bool) -> None:
    random, tries, won = np.random.default_rng(2), 100, 0
    for _ in range(tries):
        both = random.random((2, 160))
        mine, theirs = (both < [[0.7], [0.5]]).astype(float) if binary else both ** [[0.5], [1.0]]
        won += compare(mine, theirs, confidence=0.95).exceeds
    assert won >= 90
