from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from release.evidence_of import DAY, NOW, a_policy, a_run, answers, gate, judged, right

from softprompt_serve.release.evidence import Answer, Run
from softprompt_serve.release.gate_service import p99

QUALITY = {"v1": right(21, 160), "v4": right(117, 160)}


def timed(*parts: tuple[Answer, ...]) -> Run:
    return a_run(QUALITY, answers=tuple(answer for part in parts for answer in part))


@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=300))
def test_the_99th_percentile_is_the_smallest_that_99_percent_do_not_exceed(
    seconds: list[float],
) -> None:
    found = p99(seconds)
    assert found in seconds
    assert sum(value <= found for value in seconds) >= 0.99 * len(seconds)
    assert sum(value < found for value in seconds) < 0.99 * len(seconds)


def test_a_ceiling_on_latency_is_kept() -> None:
    run = timed(answers("v4", [0.5] * 158 + [9.0] * 2))
    found = gate(judged(a_policy(latency={"p99_seconds": 0.6}), run), "latency p99")
    assert not found.passed
    assert (found.numbers["value"], found.numbers["items"]) == (9.0, 160)
    assert found.hint == "v4 has to come down to 0.6 s."
    assert judged(a_policy(latency={"p99_seconds": 9.0}), run).passed


def test_two_slow_answers_of_two_hundred_are_above_the_99th_percentile() -> None:
    run = timed(answers("v4", [0.5] * 198 + [9.0] * 2))
    assert judged(a_policy(latency={"p99_seconds": 0.6}), run).passed


def test_latency_is_held_against_the_baseline_of_the_same_run() -> None:
    run = timed(answers("v4", [1.2] * 60), answers("v1", [1.0] * 60))
    slow = gate(judged(a_policy(latency={"max_ratio": 1.1}), run), "latency p99 ratio")
    assert not slow.passed
    assert slow.numbers["value"] == pytest.approx(1.2)
    assert slow.hint == "v4 has to come down to 1.1 s."
    assert judged(a_policy(latency={"max_ratio": 1.3}), run).passed


def test_an_answer_that_never_came_took_longest() -> None:
    run = timed(answers("v4", [0.5] * 58 + [None] * 2))
    found = gate(judged(a_policy(latency={"p99_seconds": 5}), run), "latency p99")
    assert not found.passed
    assert "no answer (60 items, 2 failed)" in found.found
    assert "at least 99 % of the items; 2 failed" in found.hint
    assert "value" not in found.numbers


def test_a_baseline_that_did_not_answer_is_no_measure() -> None:
    run = timed(answers("v4", [0.5] * 60), answers("v1", [None] * 60))
    assert not judged(a_policy(latency={"max_ratio": 2}), run).passed


@pytest.mark.parametrize("asked", [{"latency": {"p99_seconds": 5}}, {"cost": {"mean_usd": 1}}])
def test_what_nobody_measured_fails(asked: dict[str, object]) -> None:
    without = Answer("i0", "v4", "default")
    for run in (timed(), timed((without,) * 60)):
        verdict = judged(a_policy(**asked), run)
        assert not verdict.passed
        assert "softprompt-serve eval run" in verdict.failed[0].hint


def test_an_unknown_cost_says_where_prices_are_set() -> None:
    run = timed(answers("v4", [0.5] * 60))
    found = gate(judged(a_policy(cost={"mean_usd": 1}), run), "cost mean")
    assert "unknown" in found.found
    assert found.hint.startswith("Set prices (`SOFTPROMPT_PRICE_*`)")


def test_ceilings_on_cost_are_kept() -> None:
    run = timed(answers("v4", [0.5] * 60, [0.002] * 60), answers("v1", [0.5] * 60, [0.004] * 60))
    policy = a_policy(cost={"mean_usd": 0.001, "max_ratio": 0.6})
    verdict = judged(policy, run)
    assert gate(verdict, "cost mean ratio").numbers["value"] == pytest.approx(0.5)
    assert [one.name for one in verdict.failed] == ["cost mean"]


def test_an_answer_that_failed_costs_nobody_knows_what() -> None:
    run = timed(answers("v4", [*[0.5] * 60, None], [*[0.002] * 60, None]))
    found = gate(judged(a_policy(cost={"mean_usd": 0.01}), run), "cost mean")
    assert (found.passed, found.numbers["value"]) == (True, pytest.approx(0.002))
    assert found.numbers["errors"] == 1


def test_too_few_answers_fail() -> None:
    run = timed(answers("v4", [0.5] * 30))
    found = gate(judged(a_policy(latency={"p99_seconds": 5}), run), "latency p99")
    assert found.hint == "Needs 20 more items in support-test."


def test_answers_to_what_must_be_won_are_measured_and_the_newest_that_count() -> None:
    policy = a_policy(latency={"p99_seconds": 1})
    quick = timed(answers("v4", [0.5] * 60))
    slow = [
        a_run(QUALITY, answers=answers("v4", [9.0] * 60), id=f"{n}" * 32, **changes)
        for n, changes in enumerate(
            (
                {"dataset": "other", "at": NOW},
                {"digests": {"v1": "0" * 64, "v4": "0" * 64}, "at": NOW},
                {"at": NOW - 9 * DAY},
            ),
            1,
        )
    ]
    assert judged(policy, quick, *slow).passed
