from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from softprompt_serve.access.pace import Pace


def test_a_minutes_worth_may_come_at_once_and_then_evenly() -> None:
    pace = Pace(6)
    assert [pace.take("a", 0.0) for _ in range(7)] == [0, 0, 0, 0, 0, 0, 10]
    assert pace.take("a", 9.0) == 1
    assert pace.take("a", 10.0) == 0
    assert pace.take("a", 10.0) == 10


def test_one_does_not_wait_for_another() -> None:
    pace = Pace(1)
    assert [pace.take(key, 0.0) for key in ("a", "b", "a")] == [0, 0, 60]


def test_to_look_takes_nothing() -> None:
    pace = Pace(1)
    assert [pace.wait("a", 0.0) for _ in range(3)] == [0, 0, 0]
    assert pace.take("a", 0.0) == 0


def test_without_a_limit_nobody_waits() -> None:
    pace = Pace(None)
    assert not any(pace.take("a", 0.0) for _ in range(1000))


def test_who_was_seen_longest_ago_is_forgotten_first() -> None:
    pace = Pace(1, most=2)
    for key in ("a", "b", "c"):
        pace.take(key, 0.0)
    assert (pace.wait("a", 0.0), pace.wait("b", 0.0), pace.wait("c", 0.0)) == (0, 60, 60)


@given(st.integers(1, 50), st.lists(st.floats(0, 30), max_size=200))
def test_the_mean_is_kept_whatever_the_pauses(per_minute: int, pauses: list[float]) -> None:
    pace, now, taken = Pace(per_minute), 0.0, 0
    for pause in pauses:
        now += pause
        taken += pace.take("a", now) == 0
    assert taken <= per_minute * (1 + now / 60) + 1e-6


@given(st.integers(1, 50), st.integers(0, 200))
def test_whoever_waits_as_long_as_was_said_may_go_on(per_minute: int, before: int) -> None:
    pace = Pace(per_minute)
    for _ in range(before):
        pace.take("a", 0.0)
    assert pace.take("a", float(pace.wait("a", 0.0))) == 0
