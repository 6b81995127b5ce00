from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt_serve.shadow.intervals import Moments, Z, wilson


def test_wilson_of_a_known_example() -> None:
    # Newcombe, Statistics in Medicine 17, 1998, table I: 81 of 263 and 15 of 148
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)


def test_wilson_at_the_ends_stays_a_rate() -> None:
    low, high = wilson(0, 20) or (0, 0)
    assert (low, high) == (0.0, pytest.approx(0.1611, abs=5e-5))
    assert wilson(20, 20) == (pytest.approx(1 - 0.1611, abs=5e-5), 1.0)


def test_of_nothing_there_is_no_interval() -> None:
    assert wilson(0, 0) is None
    assert Moments().mean is None
    assert Moments().interval is None


@given(st.integers(1, 10_000), st.data())
def test_wilson_holds_the_rate_that_was_seen(total: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, total))
    low, high = wilson(hits, total) or (1.0, 0.0)
    assert 0.0 <= low <= hits / total + 1e-12
    assert hits / total - 1e-12 <= high <= 1.0


def of(values: list[float]) -> Moments:
    found = Moments()
    for value in values:
        found.add(value)
    return found


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=50))
def test_the_mean_and_its_interval_are_the_samples(values: list[float]) -> None:
    found = of(values)
    low, high = found.interval or (0.0, 0.0)
    margin = Z * statistics.stdev(values) / len(values) ** 0.5
    assert found.mean == pytest.approx(statistics.fmean(values), abs=1e-9)
    assert (high - low) / 2 == pytest.approx(margin, abs=1e-5)


def test_one_value_has_a_mean_and_no_interval() -> None:
    assert of([3.0]).mean == 3.0
    assert of([3.0]).interval is None


def test_moments_add_up() -> None:
    whole = of([1.0, 2.0])
    whole.merge_json(of([4.0]).to_json())
    assert whole.to_json() == of([1.0, 2.0, 4.0]).to_json() == [3, 7.0, 21.0]
