from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt_serve.rollout.histogram import (
    Histogram,
    Kind,
    bucket_of,
    lower_edge,
    upper_edge,
)

kinds = st.sampled_from(get_args(Kind))
values = st.floats(1e-9, 1e9)


def filled(*values: float, kind: Kind = "seconds") -> Histogram:
    histogram = Histogram(kind)
    for value in values:
        histogram.add(value)
    return histogram


@given(kinds, values)
def test_a_value_lies_between_its_buckets_edges(kind: Kind, value: float) -> None:
    bucket = bucket_of(kind, value)
    assert lower_edge(kind, bucket) * (1 - 1e-9) < value <= upper_edge(kind, bucket) * (1 + 1e-9)


@given(kinds, st.integers(0, 500))
def test_an_edge_belongs_to_the_bucket_below_it(kind: Kind, bucket: int) -> None:
    assert bucket_of(kind, upper_edge(kind, bucket)) == bucket


@given(kinds, st.integers(1, 500))
def test_edges_are_close(kind: Kind, bucket: int) -> None:
    assert 1.02 < upper_edge(kind, bucket) / upper_edge(kind, bucket - 1) < 1.025


def test_what_is_too_small_and_what_is_too_large_is_counted_too() -> None:
    histogram = filled(-1.0, 0.0, 1e-4, 1e5, math.inf)
    assert histogram.count == 5
    assert histogram.above(0) == 2
    assert math.isinf(upper_edge("seconds", max(histogram.buckets)))


def test_a_range_ends_where_it_says() -> None:
    assert upper_edge("seconds", 0) == 0.001
    assert math.isfinite(upper_edge("seconds", bucket_of("seconds", 3600.0)))
    assert math.isinf(upper_edge("seconds", bucket_of("seconds", 3700.0)))


def test_what_is_no_number_is_not_counted() -> None:
    assert filled(math.nan).count == 0


@given(st.lists(values, min_size=1, max_size=200), st.floats(0.01, 0.99))
def test_a_quantile_is_off_by_a_bucket_at_most(found: list[float], q: float) -> None:
    histogram = filled(*found)
    true = float(np.quantile(found, q, method="inverted_cdf"))
    estimate = histogram.quantile(q)
    assert estimate is not None
    assert abs(bucket_of("seconds", estimate) - bucket_of("seconds", true)) <= 1


def test_nothing_has_no_quantile() -> None:
    assert filled().quantile(0.5) is None


@pytest.mark.parametrize("rank", [0, 3])
def test_a_rank_that_is_not_there_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match=f"rank {rank} of 2"):
        filled(1.0, 2.0).at_rank(rank)


def test_what_is_above_a_value_is_above_for_certain() -> None:
    histogram = filled(1.0, 2.0, 2.001, 3.0)
    assert histogram.above(bucket_of("seconds", 2.0)) == 1  # 2.001 shares a bucket with 2


@given(kinds, st.lists(values, max_size=50), st.lists(values, max_size=50))
def test_two_histograms_add_up(kind: Kind, some: list[float], others: list[float]) -> None:
    merged = filled(*some, kind=kind)
    merged.merge(filled(*others, kind=kind))
    together = filled(*some, *others, kind=kind)
    assert dict(merged.buckets) == dict(together.buckets)
    assert merged.count == together.count


def test_kinds_do_not_add_up() -> None:
    with pytest.raises(ValueError, match="tokens can't be added to one of seconds"):
        filled().merge(Histogram("tokens"))


@given(kinds, st.lists(values, max_size=50))
def test_json_and_back(kind: Kind, found: list[float]) -> None:
    histogram = filled(*found, kind=kind)
    again = Histogram.from_json(kind, histogram.to_json())
    assert again.to_json() == histogram.to_json()
    assert again.count == histogram.count


def test_json_is_a_copy_without_empty_buckets() -> None:
    histogram = filled(1.0, 1.0)
    data = histogram.to_json()
    histogram.add(2.0)
    assert list(data.values()) == [2]
