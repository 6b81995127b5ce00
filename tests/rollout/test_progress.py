from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
from rollout.arms import COHORTS, EPOCH, shadow, tally

from softprompt_serve.registry.replicas import Replica, Serving
from softprompt_serve.registry.snapshot import Rollout
from softprompt_serve.registry.tallies import Tally
from softprompt_serve.rollout.progress import ACTOR, Verdict, applied, judge
from softprompt_serve.rollout.spec import RolloutSpec

NOW = 1_000_000.0
STEPS = (
    {"weight": 1, "min_requests": 10, "min_duration_seconds": 30},
    {"weight": 50, "min_requests": 20, "min_duration_seconds": 30},
)
FAILING = [tally("v2", 100, 60), tally("v1", 900, 9)]


def rollout(
    state: Any = "progressing", /, *, since: float = NOW - 60, base: int = 0, **fields: Any
) -> Rollout:
    """`support` from v1 to v2 in two steps, in its first one; errors are watched."""
    document = {
        "arms": [{"version": "v1", "weight": 100}, {"version": "v2", "weight": 0}],
        "steps": STEPS,
        "gates": [{"metric": "error_rate", "max_increase": 0.01}],
        "pause_after_idle_seconds": 300.0,
    }
    step = fields.pop("step", None if state in {"pending", "static"} else 0)
    reason, by = fields.pop("reason", ""), fields.pop("by", None)
    spec = RolloutSpec.model_validate(document | fields)
    weights = MappingProxyType({"v1": 99, "v2": 1})
    return Rollout(
        7,
        EPOCH,
        state,
        reason,
        spec,
        weights,
        None,
        step,
        None if step is None else since,
        base,
        "",
        by,
    )


def judged(state: Rollout, /, *tallies: Tally, **fields: Any) -> Verdict:
    shadows = [found for found in tallies if found.kind == "shadow"]
    requests = [found for found in tallies if found.kind == "requests"]
    given: dict[str, Any] = {"now": NOW, "cohorts": COHORTS, "applied": True}
    return judge(state, "v1", requests, shadows, **(given | fields))


def test_the_first_step_begins_when_every_replica_is_there() -> None:
    verdict = judged(rollout("pending"))
    assert (verdict.action, verdict.step, verdict.answers) == ("advance", 0, 0)
    assert verdict.reason == "v2 gets 1 of 100: step 1 of 2."


def test_until_then_it_waits() -> None:
    assert judged(rollout("pending"), applied=False).action == "hold"


def test_a_step_waits_for_its_answers_and_its_time() -> None:
    verdict = judged(rollout(since=NOW - 10), tally("v2", 4))
    assert verdict.action == "hold"
    assert verdict.reason == "Step 1 of 2 needs 6 more answers and 20 more seconds."


def test_a_step_that_has_both_is_over() -> None:
    verdict = judged(rollout(), tally("v2", 12))
    assert (verdict.action, verdict.step, verdict.answers) == ("advance", 1, 12)


def test_only_answers_since_the_step_began_count() -> None:
    assert judged(rollout(step=1, base=12), tally("v2", 31)).action == "hold"
    assert judged(rollout(step=1, base=12), tally("v2", 32)).action == "promote"


def test_answers_of_all_replicas_and_cohorts_count() -> None:
    rows = [
        tally("v2", 4, replica="a"),
        tally("v2", 3, replica="b"),
        tally("v2", 3, replica="b", cohort="regulated"),
        tally("v1", 500, replica="a"),
    ]
    verdict = judged(rollout(), *rows)
    assert verdict.action == "advance"
    assert verdict.numbers["answers"] == {"v1": 500, "v2": 10}


def test_a_broken_gate_rolls_back_and_says_why() -> None:
    verdict = judged(rollout(), *FAILING)
    assert verdict.action == "rollback"
    assert "`error_rate max_increase 0.01` is broken for all requests: v2 60 % (" in verdict.reason
    assert "100 answers) against v1 1 % (" in verdict.reason


def test_a_broken_gate_pauses_where_that_is_asked() -> None:
    assert judged(rollout(on_failure="pause"), *FAILING).action == "pause"


def test_one_cohort_is_enough() -> None:
    rows = [
        tally(row.version, *n, cohort=cohort)
        for row, n, cohort in (
            (FAILING[0], (100, 60), "regulated"),
            (FAILING[1], (900, 9), "regulated"),
            (FAILING[0], (5000, 50), "default"),
            (FAILING[1], (45000, 450), "default"),
        )
    ]
    verdict = judged(rollout(), *rows)
    assert verdict.action == "rollback"
    assert "for cohort regulated" in verdict.reason


def test_a_gate_counts_before_users_see_anything() -> None:
    watched = rollout(
        "pending",
        shadow={"version": "v2", "sample": 1.0},
        gates=[{"metric": "shadow_mismatch", "max": 0.1}],
    )
    assert judged(watched, shadow("v2", pairs=100, mismatches=80)).action == "rollback"
    assert judged(watched, shadow("v2", pairs=100, mismatches=2)).action == "advance"


def test_no_traffic_pauses() -> None:
    verdict = judged(rollout(since=NOW - 301))
    assert verdict.action == "pause"
    assert verdict.reason.startswith("no_traffic: v2 has not answered anyone for 301 s")


def test_no_traffic_pauses_even_a_last_step_that_is_over() -> None:
    last, rows = rollout(step=1, since=NOW - 1000), [tally("v2", 50)]
    before = judged(last, *rows, now=NOW - 400)
    assert judged(last, *rows, memory=before.memory).action == "pause"


def test_answers_keep_a_step_from_pausing() -> None:
    now = rollout(since=NOW - 1000, steps=[{**STEPS[0], "min_requests": 1000}])
    before = judged(now, tally("v2", 4), now=NOW - 400)
    assert judged(now, tally("v2", 5), memory=before.memory).action == "hold"
    assert judged(now, tally("v2", 4), memory=before.memory).action == "pause"


def paused(**fields: Any) -> Rollout:
    given: dict[str, Any] = {"reason": "no_traffic: nobody asked", "by": ACTOR, "since": NOW - 9000}
    return rollout("paused", **(given | fields))


def test_answers_end_a_pause_for_want_of_them() -> None:
    before = judged(paused(), tally("v2", 4), now=NOW - 400)
    before = judged(paused(), tally("v2", 4), memory={**before.memory, "answered": NOW - 400})
    assert before.action == "hold"
    assert judged(paused(), tally("v2", 5), memory=before.memory).action == "resume"


@pytest.mark.parametrize(
    "held",
    [
        {"reason": "Paused on request.", "by": "anna"},
        {"reason": "no_traffic tonight, please", "by": "anna"},
        {"reason": "`error_rate max 0.1` is broken", "by": ACTOR},
    ],
)
def test_no_other_pause_ends_by_itself(held: dict[str, str]) -> None:
    before = judged(paused(**held), tally("v2", 4), now=NOW - 1)
    assert judged(paused(**held), tally("v2", 5), memory=before.memory).action == "hold"


def test_what_breaks_during_a_pause_is_said_and_left_to_whoever_paused() -> None:
    verdict = judged(paused(reason="Paused on request.", by="anna"), *FAILING)
    assert verdict.action == "hold"
    assert "is broken" in verdict.reason


def test_a_gate_that_breaks_without_traffic_rolls_back_or_keeps_the_pause() -> None:
    assert judged(paused(), *FAILING).action == "rollback"
    assert judged(paused(on_failure="pause"), *FAILING).action == "hold"


def test_without_steps_there_are_numbers_and_nothing_is_done() -> None:
    verdict = judged(rollout("static", steps=[]), *FAILING)
    assert verdict.action == "hold"
    assert verdict.numbers["gates"][0]["broken"]


@pytest.mark.parametrize("state", ["promoted", "rolled_back"])
def test_what_is_over_is_not_judged(state: str) -> None:
    assert judged(rollout(state), *FAILING) == judged(replace(rollout(state), spec=None))


def test_three_arms_are_not_compared() -> None:
    arms = [{"version": name, "weight": 1} for name in ("v1", "v2", "v3")]
    assert judged(rollout("static", steps=[], arms=arms), *FAILING).numbers == {}


def test_the_numbers_say_what_was_seen_of_each_gate() -> None:
    gate = {"metric": "ttft", "quantile": 0.5, "max_ratio": 1.5}
    rows = [tally("v2", 50, ttft=[0.2] * 50), tally("v1", 50, ttft=[0.1] * 50)]
    found = judged(rollout(gates=[gate]), *rows).numbers["gates"][0]
    assert found["gate"] == "ttft p50 max_ratio 1.5"
    assert (found["metric"], found["unit"], found["bound"], found["limit"]) == (
        "ttft",
        "s",
        "max_ratio",
        1.5,
    )
    assert found["cohort"] is None
    assert found["alpha"] == 0.025
    assert found["needed"] == 40
    assert found["evidence"] == 1.0
    assert found["broken"] is False
    assert (found["candidate"]["version"], found["candidate"]["n"]) == ("v2", 50)
    assert found["baseline"]["estimate"] == pytest.approx(0.1, rel=0.02)
    assert found["baseline"]["low"] <= 0.1 <= found["baseline"]["high"]


def test_gates_of_cohorts_without_answers_are_left_out() -> None:
    found = judged(rollout(), tally("v2", 5, cohort="regulated")).numbers["gates"]
    assert [gate["cohort"] for gate in found] == [None, "regulated"]


def test_a_shadows_gate_has_no_baseline() -> None:
    now = rollout(
        shadow={"version": "v2", "sample": 0.5}, gates=[{"metric": "shadow_mismatch", "max": 0.5}]
    )
    (found,) = judged(now, tally("v2", 5), shadow("v2", pairs=9, mismatches=3)).numbers["gates"][:1]
    assert found["baseline"] is None
    assert found["candidate"]["n"] == 9


def replica(name: str, generation: int = 7, *resident: str) -> Replica:
    serving = {"support": Serving(generation, resident or ("v1", "v2"))}
    return Replica(name, name, NOW, NOW, 1, serving)


def test_a_rollout_is_applied_when_every_live_replica_follows() -> None:
    now = rollout()
    assert applied("support", now, [replica("a"), replica("b")])
    assert not applied("support", now, [])
    assert not applied("support", now, [replica("a"), replica("b", 6)])
    assert not applied("support", now, [replica("a"), replica("b", 7, "v1")])
    assert not applied("another", now, [replica("a")])


def test_where_there_never_was_a_rollout_every_replica_follows() -> None:
    assert applied("another", None, [replica("a")])
    assert not applied("support", None, [replica("a")])
