"""Where rollouts stand, as metrics."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pytest
from measured import Measured
from router.catalogues import arms, rollout, snapshot, split

from softprompt_serve.registry.snapshot import Snapshot
from softprompt_serve.telemetry.events import Applied, Seen

NOTHING = Snapshot(8, MappingProxyType({}))


def test_a_generation_is_read_before_it_is_applied() -> None:
    found = Measured().emit(Applied(snapshot()), Seen(split(v1=99, v2=1)))
    assert found.value("rollout_generation", prompt="support") == 12
    assert found.value("rollout_applied_generation", prompt="support") == 0
    found.emit(Applied(split(v1=99, v2=1)))
    assert found.value("rollout_applied_generation", prompt="support") == 12


def test_what_was_read_stays_read_while_the_older_one_is_applied_again() -> None:
    newer = replace(split(v1=99, v2=1), revision=8)
    found = Measured().emit(Applied(snapshot()), Seen(newer), Applied(snapshot()))
    assert found.value("rollout_generation", prompt="support") == 12
    assert found.value("rollout_applied_generation", prompt="support") == 0


def test_weights_are_shares_of_the_split() -> None:
    found = Measured().emit(Applied(split(v1=3, v2=1, v3=0)))
    assert found.value("rollout_weight_ratio", prompt="support", version="v1") == 0.75
    assert found.value("rollout_weight_ratio", prompt="support", version="v2") == 0.25
    assert found.value("rollout_weight_ratio", prompt="support", version="v3") == 0.0


def test_without_a_rollout_production_has_everything() -> None:
    found = Measured().emit(Applied(snapshot()))
    assert found.shown("rollout_weight_ratio", "version") == {("v1",): 1.0}
    assert found.shown("rollout_arm_info", "version", "arm", "role") == {
        ("v1", "production", "baseline"): 1.0
    }
    assert found.shown("rollout_state", "state") == {("none",): 1.0}


def test_the_arms_of_a_rollout_have_roles_and_the_label_that_requests_carry() -> None:
    found = Measured().emit(Applied(split(v1=99, v2=1)))
    assert found.shown("rollout_arm_info", "version", "arm", "role").keys() == {
        ("v1", "v1", "baseline"),
        ("v2", "v2", "candidate"),
    }


def test_of_several_others_none_is_the_candidate() -> None:
    found = Measured().emit(Applied(split(v1=8, v2=1, v3=1)))
    assert found.shown("rollout_arm_info", "version", "role").keys() == {("v1", "baseline")}


def test_production_is_no_baseline_where_it_is_no_arm() -> None:
    found = Measured().emit(Applied(split(v2=1)))
    assert found.shown("rollout_arm_info", "version", "role").keys() == {("v2", "candidate")}


@pytest.mark.parametrize("state", ["pending", "progressing", "paused", "promoted", "rolled_back"])
def test_a_rollout_is_in_one_state(state: str) -> None:
    document = {"arms": arms(v1=9, v2=1)}
    routed = replace(rollout(document), state=state)  # type: ignore[arg-type]
    found = Measured().emit(Applied(split(v1=1)), Applied(snapshot(routed=routed)))
    assert found.shown("rollout_state", "state") == {(state,): 1.0}
    assert len(found.series("rollout_state")) == 7


def test_a_rollout_that_was_removed_is_none_and_keeps_its_generation() -> None:
    found = Measured().emit(Applied(split(v1=9, v2=1)))
    found.emit(Applied(snapshot(routed=replace(rollout(None), generation=13))))
    assert found.shown("rollout_state", "state") == {("none",): 1.0}
    assert found.value("rollout_applied_generation", prompt="support") == 13
    assert found.shown("rollout_weight_ratio", "version") == {("v1",): 1.0}


def test_what_is_gone_is_zero() -> None:
    found = Measured().emit(Applied(split(v1=9, v2=1)), Applied(NOTHING))
    for name in ("weight_ratio", "arm_info", "state", "generation", "applied_generation"):
        assert found.series(f"rollout_{name}")
        assert found.shown(f"rollout_{name}", "prompt") == {}


def test_prompts_beyond_the_limit_are_not_shown_and_that_is_counted() -> None:
    prompt = snapshot().prompts["support"]
    many = {f"p{i}": replace(prompt, name=f"p{i}") for i in range(5)}
    found = Measured(arms=3).emit(Applied(Snapshot(1, MappingProxyType(many))))
    assert len(found.series("rollout_generation")) == 3
    assert (found.value("metrics_collapsed_total") or 0) > 0
