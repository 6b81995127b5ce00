"""A document against what exists: what it becomes, and which field is at fault."""

from __future__ import annotations

from typing import Any

import pytest

from softprompt_serve.errors import Invalid
from softprompt_serve.rollout.resolve import candidate_of, resolve, without_aliases
from softprompt_serve.rollout.spec import RolloutSpec
from softprompt_serve.router.ask import Labels

ARMS = [{"version": "v1", "weight": 90}, {"version": "v2", "weight": 10}]
LABELS = Labels(("regulated",), ("planner",), frozenset({"x-tier"}))


def resolved(
    *, priced: bool = False, aliases: dict[str, str] | None = None, **document: Any
) -> Any:
    spec = RolloutSpec.model_validate({"arms": ARMS} | document)
    return resolve(
        spec,
        prompt="support",
        versions=("v1", "v2", "v3", "old"),
        aliases={"production": "v1", "candidate": "v2"} if aliases is None else aliases,
        unwanted={"old"},
        labels=LABELS,
        priced=priced,
    )


def refusal(**given: Any) -> tuple[str, str | None]:
    with pytest.raises(Invalid) as caught:
        resolved(**given)
    assert caught.value.status == 422
    return caught.value.code, caught.value.param


def rule(**given: Any) -> dict[str, Any]:
    return {"name": "r", "match": {"tools": True}, "version": "v1"} | given


def test_an_alias_becomes_its_version_and_is_remembered() -> None:
    arms = [{"version": "production", "weight": 1}, {"version": "candidate", "weight": 1}]
    found = resolved(arms=arms).arms
    assert [(arm.version, arm.alias) for arm in found] == [
        ("v1", "production"),
        ("v2", "candidate"),
    ]


def test_aliases_in_rules_splits_and_the_shadow_are_resolved_too() -> None:
    found = resolved(
        rules=[
            rule(version="candidate"),
            rule(name="s", version=None, split=[{"version": "candidate", "weight": 1}]),
        ],
        shadow={"version": "candidate", "sample": 0.5},
    )
    assert (found.rules[0].version, found.rules[0].alias) == ("v2", "candidate")
    assert (found.rules[1].split[0].version, found.rules[1].split[0].alias) == ("v2", "candidate")
    assert (found.shadow.version, found.shadow.alias) == ("v2", "candidate")
    assert found.versions() == {"v1", "v2"}


def test_what_was_resolved_may_be_sent_again() -> None:
    found = resolved(arms=[{"version": "candidate", "weight": 1}], rules=[rule(version="v3")])
    assert resolved(**found.model_dump(mode="json")) == found


def test_an_alias_that_a_copy_still_names_is_dropped_once_it_means_another() -> None:
    arms = [{"version": "v1", "weight": 1, "alias": "candidate"}]
    assert resolved(arms=arms).arms[0].alias is None


def test_two_documents_that_differ_in_how_versions_are_written_do_the_same() -> None:
    written = {
        "rules": [rule(name="s", version=None, split=[{"version": "candidate", "weight": 1}])],
        "shadow": {"version": "candidate", "sample": 0.5},
    }
    plain = {
        "rules": [rule(name="s", version=None, split=[{"version": "v2", "weight": 1}])],
        "shadow": {"version": "v2", "sample": 0.5},
    }
    assert resolved(**written) != resolved(**plain)
    assert without_aliases(resolved(**written)) == without_aliases(resolved(**plain))


def test_headers_lose_their_case() -> None:
    found = resolved(rules=[rule(match={"headers": {"X-Tier": ["gold"]}})])
    assert found.rules[0].match.headers == {"x-tier": ("gold",)}


@pytest.mark.parametrize(
    ("document", "param"),
    [
        ({"arms": [ARMS[0], {"version": "v9", "weight": 1}]}, "arms.1.version"),
        ({"rules": [rule(version="v9")]}, "rules.0.version"),
        (
            {"rules": [rule(version=None, split=[*ARMS, {"version": "v9", "weight": 1}])]},
            "rules.0.split.2.version",
        ),
        ({"shadow": {"version": "v9", "sample": 1}}, "shadow.version"),
    ],
)
def test_an_unknown_version_is_named_by_its_field(document: dict[str, Any], param: str) -> None:
    assert refusal(**document) == ("rollout_unknown_version", param)


@pytest.mark.parametrize(
    ("document", "param"),
    [
        ({"arms": [ARMS[0], {"version": "old", "weight": 0}]}, "arms.1.version"),
        ({"rules": [rule(version="old")]}, "rules.0.version"),
        ({"shadow": {"version": "old", "sample": 1}}, "shadow.version"),
    ],
)
def test_an_unloaded_version_can_take_no_traffic(document: dict[str, Any], param: str) -> None:
    assert refusal(**document) == ("version_unloaded", param)


@pytest.mark.parametrize("twin", ["v1", "production"])
def test_a_version_is_one_arm_however_it_is_written(twin: str) -> None:
    arms = [*ARMS, {"version": twin, "weight": 5}]
    assert refusal(arms=arms) == ("rollout_duplicate_arm", "arms.2.version")
    split = [rule(version=None, split=arms)]
    assert refusal(rules=split) == ("rollout_duplicate_arm", "rules.0.split.2.version")


def test_two_aliases_of_one_version_are_one_arm() -> None:
    arms = [{"version": "production", "weight": 1}, {"version": "stable", "weight": 1}]
    assert refusal(arms=arms, aliases={"production": "v1", "stable": "v1"}) == (
        "rollout_duplicate_arm",
        "arms.1.version",
    )


def test_somebody_must_get_the_traffic() -> None:
    arms = [{"version": "v1", "weight": 0}, {"version": "v2", "weight": 0}]
    assert refusal(arms=arms) == ("rollout_no_weight", "arms")
    assert refusal(rules=[rule(version=None, split=arms)]) == (
        "rollout_no_weight",
        "rules.0.split",
    )


def test_two_rules_can_not_share_a_name() -> None:
    assert refusal(rules=[rule(), rule(version="v2")]) == ("duplicate_rule", "rules.1.name")


@pytest.mark.parametrize(
    ("match", "code", "param"),
    [
        ({"cohort": ["regulated", "rich"]}, "unknown_cohort", "rules.0.match.cohort"),
        ({"route": ["shop"]}, "unknown_route", "rules.0.match.route"),
        ({"headers": {"x-secret": ["1"]}}, "header_not_allowed", "rules.0.match.headers.x-secret"),
        (
            {"headers": {"x-tier": ["1"], "X-Tier": ["2"]}},
            "invalid_rollout",
            "rules.0.match.headers.X-Tier",
        ),
    ],
)
def test_a_rule_can_only_ask_for_what_is_declared(
    match: dict[str, Any], code: str, param: str
) -> None:
    assert refusal(rules=[rule(match=match)]) == (code, param)


@pytest.mark.parametrize("cohort", LABELS.all_cohorts)
def test_declared_and_derived_cohorts_can_be_asked_for(cohort: str) -> None:
    resolved(rules=[rule(match={"cohort": [cohort]})])


@pytest.mark.parametrize("route", LABELS.all_routes)
def test_declared_routes_and_their_defaults_can_be_asked_for(route: str) -> None:
    resolved(rules=[rule(match={"route": [route]})])


@pytest.mark.parametrize(
    ("arms", "aliases"),
    [
        (ARMS[:1], {"production": "v1"}),
        ([*ARMS, {"version": "v3", "weight": 0}], {"production": "v1"}),
        (ARMS, {"production": "v3"}),
        (ARMS, {}),
    ],
)
def test_steps_need_production_and_one_other(arms: list[Any], aliases: dict[str, str]) -> None:
    refused = refusal(arms=arms, aliases=aliases, steps=[{"weight": 1}])
    assert refused == ("steps_need_baseline", "arms")


def test_a_steps_weight_is_of_the_arms_sum() -> None:
    steps = [{"weight": 100}, {"weight": 101}]
    assert refusal(steps=steps) == ("step_weight_too_large", "steps.1.weight")
    assert resolved(steps=steps[:1]).steps[0].weight == 100


def test_a_gate_on_cost_needs_prices() -> None:
    gate = {"metric": "cost", "quantile": 0.5, "max": 1.0}
    assert refusal(gates=[gate]) == ("no_prices", "gates.0.metric")
    assert resolved(gates=[gate], priced=True).gates[0].metric == "cost"


@pytest.mark.parametrize(
    ("gate", "mode", "other"),
    [
        ({"metric": "shadow_mismatch", "max": 0.1}, "generate", "score"),
        ({"metric": "shadow_divergence", "quantile": 0.5, "max": 0.1}, "score", "generate"),
    ],
)
def test_a_gate_on_the_shadow_needs_one_that_measures_it(
    gate: dict[str, Any], mode: str, other: str
) -> None:
    refused = ("gate_needs_shadow", "gates.0.metric")
    shadow = {"version": "v2", "sample": 1}
    assert refusal(gates=[gate]) == refused
    assert refusal(gates=[gate], shadow=shadow | {"mode": other}) == refused
    for good in (mode, "both"):
        resolved(gates=[gate], shadow=shadow | {"mode": good})


def test_a_gates_cohorts_must_exist() -> None:
    gates = [{"metric": "error_rate", "max": 0.1, "cohorts": ["rich"]}]
    assert refusal(gates=gates) == ("unknown_cohort", "gates.0.cohorts")


def test_gates_need_no_steps() -> None:
    assert resolved(gates=[{"metric": "error_rate", "max": 0.1}]).steps == ()


def test_a_version_may_shadow_itself() -> None:
    found = resolved(arms=ARMS[:1], shadow={"version": "v1", "sample": 1})
    assert found.versions() == {"v1"}


@pytest.mark.parametrize(
    ("arms", "production", "expected"),
    [
        (ARMS, "v1", "v2"),
        (ARMS, "v2", "v1"),
        (ARMS, "v3", None),
        (ARMS[:1], "v1", None),
        (ARMS[:1], None, "v1"),
        ([*ARMS, {"version": "v3", "weight": 0}], "v1", None),
    ],
)
def test_the_candidate_is_the_one_arm_that_is_not_production(
    arms: list[Any], production: str | None, expected: str | None
) -> None:
    spec = RolloutSpec.model_validate({"arms": arms})
    assert candidate_of(spec, production) == expected
