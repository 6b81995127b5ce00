"""The statistics of reruns, held against SciPy's and against chance."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from release.evidence_of import a_run
from scipy import stats

from softprompt_serve.release.evidence import Run
from softprompt_serve.release.regression import shifts_of
from softprompt_serve.release.shift import (
    DISTANCE,
    MCNEMAR,
    SIGNS,
    SWAPS,
    Shift,
    adjusted,
    holm,
    mcnemar,
    swapped,
)

Scores = NDArray[np.float64]

counts = st.integers(0, 60)
grades = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=2, max_size=9)
p_values = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12)


def distance(new: Scores, old: Scores) -> float:
    """The Kolmogorov-Smirnov distance as SciPy has it."""
    return float(stats.ks_2samp(new, old, method="asymp").statistic)


def apart(new: Scores, old: Scores, axis: int = -1) -> Scores:
    found: Scores = np.abs(new.mean(axis=axis) - old.mean(axis=axis))
    return found


def graded(seed: int, items: int, *, spread: float = 0.2) -> tuple[Scores, Scores]:
    """Twice the scores of the same items, to one place; nothing has changed between them."""
    random = np.random.default_rng(seed)
    skill = random.beta(2.0, 1.5, items)
    both = np.clip(skill + spread * random.standard_normal((2, items)), 0.0, 1.0).round(1)
    return both[0], both[1]


def shifts(old: Run, new: Run, confidence: float = 0.99) -> list[Shift]:
    new = replace(new, id="1" * 32)
    return list(
        adjusted(list(shifts_of(old, new, ["v4"], list(new.evaluators), confidence)), confidence)
    )


@given(counts, counts)
def test_mcnemars_test_is_scipys_binomial_test(better: int, worse: int) -> None:
    theirs = stats.binomtest(better, better + worse, 0.5).pvalue if better + worse else 1.0
    assert mcnemar(better, worse) == pytest.approx(theirs, rel=1e-9)


@settings(max_examples=25)
@given(grades, st.randoms(use_true_random=False))
def test_where_few_items_differ_the_tests_are_scipys_exact_ones(
    values: list[float], random: st.random.Random
) -> None:
    old = np.array(values)
    new = np.array(random.choices([0.0, 0.25, 0.5, 0.75, 1.0], k=len(values)))
    found = swapped(old, new)
    exact = {"permutation_type": "samples", "n_resamples": np.inf, "alternative": "greater"}
    mean = stats.permutation_test((new, old), apart, vectorized=True, **exact)
    assert found.mean == pytest.approx(mean.pvalue)
    assert found.distance == pytest.approx(distance(new, old))


def test_the_test_of_the_distribution_is_scipys_by_all_swaps() -> None:
    old, new = graded(0, 9)
    theirs = stats.permutation_test(
        (new, old), distance, permutation_type="samples", n_resamples=np.inf, alternative="greater"
    )
    assert swapped(old, new).distribution == pytest.approx(theirs.pvalue)


def test_random_swaps_say_what_all_of_them_would() -> None:
    old, new = graded(1, 40)
    new = np.clip(new - 0.06, 0.0, 1.0)
    theirs = stats.permutation_test(
        (new, old),
        apart,
        permutation_type="samples",
        n_resamples=50_000,
        alternative="greater",
        vectorized=True,
        rng=1,
    )
    assert swapped(old, new).mean == pytest.approx(theirs.pvalue, abs=0.01)


@given(grades)
def test_on_verdicts_swaps_are_mcnemars_test(values: list[float]) -> None:
    new = np.array([float(value > 0.4) for value in values])
    old = np.array([float(value < 0.6) for value in values])
    better, worse = int((new > old).sum()), int((new < old).sum())
    assert swapped(old, new).mean == pytest.approx(mcnemar(better, worse))


def test_scores_that_have_not_changed_prove_nothing() -> None:
    old, _ = graded(2, 50)
    assert swapped(old, old) == (1.0, 0.0, 1.0)


def test_no_p_value_is_ever_zero() -> None:
    found = swapped(np.zeros(50), np.linspace(0.5, 1.0, 50))
    assert found.mean == found.distribution == 1 / (SWAPS + 1)


def test_a_distance_between_many_values_is_looked_for_at_a_hundred_places() -> None:
    random = np.random.default_rng(3)
    old = random.random(400)
    new = np.where(random.random(400) < 0.5, old / 4, 1.0 - old / 4)
    found = swapped(old, new, swaps=999)
    assert found.distance == pytest.approx(distance(new, old), abs=0.02)
    assert found.distribution == 0.001


def test_the_same_scores_give_the_same_p_values() -> None:
    assert swapped(*graded(4, 60)) == swapped(*graded(4, 60))


@given(p_values)
def test_holms_p_values_are_no_smaller_and_keep_their_order(given_: list[float]) -> None:
    made = holm(given_)
    by_size = [after for _, after in sorted(zip(given_, made, strict=True))]
    assert all(after >= before for before, after in zip(given_, made, strict=True))
    assert all(one <= other for one, other in pairwise(by_size))
    assert max(made) <= 1.0


def test_holms_p_values_are_the_published_ones() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_one_test_needs_no_adjustment() -> None:
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


@pytest.mark.parametrize("binary", [True, False])
def test_where_nothing_has_changed_a_shift_is_found_no_more_often_than_said(binary: bool) -> None:
    """Several evaluators at once, 5 % in all: of 300 tries 15; 27 or more have a chance of 0.3 %."""
    random, tries, wrong = np.random.default_rng(5), 300, 0
    for seed in range(tries):
        found = []
        for evaluator in range(3):
            if binary:
                both = random.random((2, 60)) < 0.6
                changed = both[0] != both[1]
                p_values = [mcnemar(int((changed & both[1]).sum()), int((changed & both[0]).sum()))]
            else:
                said = swapped(*graded(10 * seed + evaluator, 60), swaps=499)
                p_values = [said.mean, said.distribution]
            found += p_values
        wrong += min(holm(found)) <= 0.05
    assert wrong < 27


def test_a_loss_is_found_in_the_cohort_that_has_it_and_in_no_other() -> None:
    cohorts = ["default", "regulated"] * 60
    old = [1.0] * 120
    new = [1.0 if cohort == "default" or at % 4 else 0.0 for at, cohort in enumerate(cohorts, 1)]
    found = {
        shift.cohort: shift.direction
        for shift in shifts(
            a_run({"v4": old}, cohorts=cohorts), a_run({"v4": new}, cohorts=cohorts)
        )
    }
    assert found == {"all": "worse", "default": "none", "regulated": "worse"}


def test_one_cohort_is_compared_once() -> None:
    (found,) = shifts(a_run({"v4": [1.0, 0.0] * 20}), a_run({"v4": [1.0, 0.0] * 20}))
    assert (found.cohort, found.direction) == ("all", "none")
    assert [test.method for test in found.tests] == [MCNEMAR]


def test_a_gain_is_no_loss() -> None:
    (found,) = shifts(a_run({"v4": [0.0] * 40}), a_run({"v4": [1.0, 0.0] * 20}))
    assert found.direction == "better"
    assert found.found.low > 0.0


def test_answers_that_are_right_or_useless_where_they_were_fair_have_changed() -> None:
    (found,) = shifts(a_run({"v4": [0.5] * 80}), a_run({"v4": [0.05, 0.95] * 40}))
    assert [test.method for test in found.tests] == [SIGNS, DISTANCE]
    assert found.direction == "changed"
    assert found.found.difference == pytest.approx(0.0)


def test_an_item_that_is_not_answered_any_more_counts_as_failed() -> None:
    (found,) = shifts(a_run({"v4": [1.0] * 40}), a_run({"v4": [1.0] * 20 + [None] * 20}))
    assert (found.missing, found.found.worse, found.direction) == (20, 20, "worse")


def test_an_item_that_was_not_answered_before_is_left_out() -> None:
    (found,) = shifts(a_run({"v4": [1.0] * 40 + [None] * 20}), a_run({"v4": [1.0] * 60}))
    assert (found.found.items, found.left_out, found.direction) == (40, 20, "none")


def test_what_is_found_alone_may_be_chance_among_many() -> None:
    old, new = [1.0] * 60, [1.0] * 50 + [0.0] * 10
    (alone,) = shifts(a_run({"v4": old}), a_run({"v4": new}))
    assert alone.direction == "worse"
    names = [f"cohort-{at % 30}" for at in range(60)]
    many = shifts(a_run({"v4": old}, cohorts=names), a_run({"v4": new}, cohorts=names))
    assert {shift.direction for shift in many} == {"none"}
