"""Which version answers where there is a rollout: pins, rules, the split, absent arms."""

from __future__ import annotations

import pytest
from router.catalogues import EPOCH, GENERATION, arms, rollout, rule, snapshot, split, without

from softprompt_serve.errors import Unavailable
from softprompt_serve.registry.snapshot import Snapshot
from softprompt_serve.router.ask import Ask
from softprompt_serve.router.choose import (
    Absent,
    choose,
)

KEYS = [f"user-{number}" for number in range(300)]


def picked(found: Snapshot, *missing: str, absent: Absent = "fallback") -> dict[str, str]:
    """Each key's version."""
    return {
        key: choose(
            found, "support", Ask(key), resident=without(*missing), absent=absent
        ).version.version
        for key in KEYS
    }


# The sticky split


def test_a_rollouts_arms_answer_for_the_prompts_name() -> None:
    decision = choose(split(v2=1), "support", Ask("someone"))
    assert (decision.version.version, decision.reason, decision.arm) == ("v2", "split", "v2")


def test_every_arm_with_a_weight_gets_keys_and_no_other_version_does() -> None:
    assert set(picked(split(v1=1, v2=1, v3=0)).values()) == {"v1", "v2"}


def test_a_key_stays_on_its_arm() -> None:
    found = split(v1=50, v2=50)
    assert picked(found) == picked(found)


def test_a_split_needs_no_production() -> None:
    spec = {"arms": arms(v1=1, v2=1)}
    found = snapshot({}, routed=rollout(spec))
    assert choose(found, "support", Ask("someone")).reason == "split"


def test_after_a_rollouts_removal_production_answers_and_the_generation_stays() -> None:
    decision = choose(snapshot(routed=rollout(None)), "support")
    assert (decision.reason, decision.generation) == ("production", GENERATION)


def test_a_decision_carries_the_rollouts_generation_and_epoch() -> None:
    decision = choose(split(v1=1), "support")
    assert (decision.generation, decision.epoch, decision.rule) == (GENERATION, EPOCH, None)


@pytest.mark.parametrize("found", [snapshot(), split(v1=1)])
@pytest.mark.parametrize("model", ["support", "support@v2"])
def test_a_decision_carries_the_requests_labels_however_it_was_made(
    found: Snapshot, model: str
) -> None:
    decision = choose(found, model, Ask(cohort="regulated", route="planner"))
    assert (decision.cohort, decision.route) == ("regulated", "planner")


def test_an_arm_that_was_unloaded_is_unavailable() -> None:
    found = snapshot(unloaded=("v2",), routed=rollout({"arms": arms(v2=1)}))
    with pytest.raises(Unavailable) as caught:
        choose(found, "support")
    assert caught.value.code == "version_unloaded"


# Pins come before rules


ALL_TO_V3 = rule(version="v3", cohort=["default"])


@pytest.mark.parametrize(
    ("model", "ask", "reason"),
    [
        ("support@v1", Ask(), "pinned"),
        ("support@candidate", Ask(), "alias"),
        ("support", Ask(pinned="v1"), "pinned"),
        ("support", Ask(pinned="candidate"), "alias"),
    ],
)
def test_what_is_pinned_is_not_touched_by_rules(model: str, ask: Ask, reason: str) -> None:
    decision = choose(split(ALL_TO_V3, v1=1, v2=1), model, ask)
    assert decision.version.version != "v3"
    assert (decision.reason, decision.rule) == (reason, None)


def test_a_pinned_decision_carries_the_rollouts_generation() -> None:
    assert choose(split(v1=1), "support@v3").generation == GENERATION


def test_a_pinned_version_that_is_no_arm_answers() -> None:
    assert choose(split(v1=1, v2=1), "support@v3").version.version == "v3"


# Rules come before the split


def test_a_rules_version_answers_and_the_rule_is_named() -> None:
    decision = choose(split(rule("lawyers", cohort=["regulated"]), v1=1), "support")
    assert decision.reason == "split"
    decision = choose(
        split(rule("lawyers", cohort=["regulated"]), v1=1), "support", Ask(cohort="regulated")
    )
    assert (decision.version.version, decision.reason, decision.rule, decision.arm) == (
        "v3",
        "rule",
        "lawyers",
        "v3",
    )
    assert (decision.generation, decision.epoch) == (GENERATION, EPOCH)


def test_the_first_rule_that_matches_wins() -> None:
    first, second = rule("one", version="v2", tools=True), rule("two", version="v3", tools=True)
    assert choose(split(first, second, v1=1), "support", Ask(tools=True)).rule == "one"
    assert choose(split(second, first, v1=1), "support", Ask(tools=True)).rule == "two"


def test_a_rule_that_does_not_match_lets_the_next_one_decide() -> None:
    found = split(rule("one", tools=True), rule("two", route=["planner"]), v1=1)
    assert choose(found, "support", Ask(route="planner")).rule == "two"


def test_a_rules_split_divides_those_who_match() -> None:
    divided = {
        "name": "half",
        "match": {"route": ["planner"]},
        "split": arms(v2=1, v3=1),
    }
    found = split(divided, v1=1)
    versions = [choose(found, "support", Ask(key, route="planner")).version.version for key in KEYS]
    assert set(versions) == {"v2", "v3"}
    assert choose(found, "support", Ask("someone")).version.version == "v1"


def test_a_rules_split_keeps_keys_where_the_main_split_has_them() -> None:
    same = {"name": "same", "match": {"tools": True}, "split": arms(v1=30, v2=70)}
    found = split(same, v1=30, v2=70)
    for key in KEYS:
        by_rule = choose(found, "support", Ask(key, tools=True))
        by_split = choose(found, "support", Ask(key))
        assert (by_rule.reason, by_split.reason) == ("rule", "split")
        assert by_rule.version == by_split.version


# Arms that are not resident here


def test_only_the_missing_arms_keys_move() -> None:
    found = split(v1=40, v2=30, v3=30)
    before, after = picked(found), picked(found, "v2")
    assert {key for key in KEYS if before[key] != after[key]} == {
        key for key in KEYS if before[key] == "v2"
    }
    assert set(after.values()) == {"v1", "v3"}


def test_a_decision_for_a_missing_arm_says_who_was_passed_over() -> None:
    found = split(v1=1, v2=1)
    key = next(key for key, version in picked(found).items() if version == "v2")
    decision = choose(found, "support", Ask(key), resident=without("v2"))
    assert (decision.version.version, decision.arm) == ("v1", "v1")
    assert (decision.reason, decision.passed_over) == ("fallback", "v2")


def test_the_share_of_a_missing_arm_can_be_refused_instead() -> None:
    found = split(v1=1, v2=1)
    key = next(key for key, version in picked(found).items() if version == "v2")
    with pytest.raises(Unavailable, match="support@v2") as caught:
        choose(found, "support", Ask(key), resident=without("v2"), absent="unavailable")
    assert (caught.value.code, caught.value.status) == ("arm_not_resident", 503)
    assert caught.value.retry_after is not None


def test_the_other_arms_go_on_where_a_missing_arms_share_is_refused() -> None:
    found = split(v1=1, v2=1)
    key = next(key for key, version in picked(found).items() if version == "v1")
    decision = choose(found, "support", Ask(key), resident=without("v2"), absent="unavailable")
    assert (decision.version.version, decision.reason) == ("v1", "split")


def test_a_rules_version_is_never_replaced_by_an_arm_outside_of_the_rule() -> None:
    found = split(rule(version="v3", tools=True), v1=1, v2=1)
    decision = choose(found, "support", Ask(tools=True), resident=without("v3"))
    assert (decision.version.version, decision.reason, decision.passed_over) == (
        "v3",
        "rule",
        None,
    )


def test_a_rules_split_falls_back_within_itself() -> None:
    divided = {"name": "half", "match": {"tools": True}, "split": arms(v2=1, v3=1)}
    found = split(divided, v1=1)
    for key in KEYS:
        decision = choose(found, "support", Ask(key, tools=True), resident=without("v2"))
        assert decision.version.version == "v3"
        assert decision.rule == "half"


def test_where_no_arm_is_resident_the_arm_itself_is_loaded_for_the_request() -> None:
    found = split(v1=1, v2=1)
    assert picked(found, "v1", "v2", "v3") == picked(found)
    decision = choose(found, "support", Ask("someone"), resident=without("v1", "v2"))
    assert (decision.reason, decision.passed_over) == ("split", None)


def test_an_arm_of_weight_0_takes_nobodys_share() -> None:
    found = split(v1=0, v2=1)
    assert set(picked(found, "v2").values()) == {"v2"}


def test_an_unloaded_arm_takes_nobodys_share() -> None:
    spec = {"arms": arms(v1=1, v2=1, v3=1)}
    everything = snapshot(routed=rollout(spec))
    key = next(key for key, version in picked(everything).items() if version == "v2")
    found = snapshot(unloaded=("v3",), routed=rollout(spec))
    decision = choose(found, "support", Ask(key), resident=without("v2"))
    assert (decision.version.version, decision.passed_over) == ("v1", "v2")
