from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt_serve.console import figures


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, figures.NOTHING),
        (0, "0 s"),
        (0.0312, "31.2 ms"),
        (2.5, "2.5 s"),
        (59.9, "59.9 s"),
        (900.0, "15 min"),
        (4000, "1 h 6 min"),
        (3600, "1 h"),
        (90_061, "1 d 1 h"),
    ],
)
def test_durations(value: float | None, shown: str) -> None:
    assert figures.seconds(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, figures.NOTHING),
        (0.0, "$0"),
        (0.000193, "$0.000193"),
        (1.6e-9, "$0.0000000016"),
        (2.5, "$2.50"),
    ],
)
def test_costs(value: float | None, shown: str) -> None:
    assert figures.usd(value) == shown


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.0123, "share", "1.23 %"),
        (0.3, "s", "300 ms"),
        (None, "s", "unbounded"),
        (12, "tokens", "12 tokens"),
    ],
)
def test_figures_of_gates(value: float | None, unit: str, shown: str) -> None:
    assert figures.in_unit(value, unit) == shown


@pytest.mark.parametrize(
    ("value", "needed", "share"), [(0.0, 160, 0), (1, 160, 0), (40, 1600, 0.5), (1e9, 160, 1)]
)
def test_evidence_is_measured_by_orders_of_magnitude(
    value: float, needed: float, share: float
) -> None:
    assert figures.against(value, needed) == pytest.approx(share)


@pytest.mark.parametrize("value", ["2026-01-31T13:00:05.123Z", "2026-01-31T14:00:05+01:00"])
def test_moments_are_in_utc(value: str) -> None:
    assert figures.moment(value) == "2026-01-31 13:00:05 UTC"


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**40, "1 TiB")]
)
def test_sizes(count: int, shown: str) -> None:
    assert figures.size(count) == shown


@given(st.dictionaries(st.text(min_size=1), st.integers(0, 10**6), min_size=1))
def test_a_bars_parts_lie_side_by_side_and_fill_it(parts: dict[str, float]) -> None:
    found = figures.segments(parts, tones={})
    assert [part.name for part in found] == list(parts)
    for before, after in pairwise(found):
        assert after.start == pytest.approx(before.start + before.width, abs=0.01)
    total = sum(part.width for part in found)
    assert total == pytest.approx(100 if any(parts.values()) else 0, abs=0.01 * len(found))


def test_a_bar_may_have_room_left() -> None:
    (part,) = figures.segments({"a": 25}, tones={"a": 3}, whole=100)
    assert (part.width, part.tone) == (25.0, 3)


def test_production_and_the_candidate_have_colours_of_their_own() -> None:
    tones = figures.tones_of([f"v{n}" for n in range(9)], "v4", "v7")
    assert (tones["v4"], tones["v7"]) == (0, 1)
    assert {tone for version, tone in tones.items() if version not in {"v4", "v7"}} == {2, 3, 4, 5}
