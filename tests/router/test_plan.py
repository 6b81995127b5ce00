"""Which rule matches."""

from __future__ import annotations

from typing import Any

import pytest
from router.catalogues import arms, rule

from softprompt_serve.rollout.spec import Match, RolloutSpec
from softprompt_serve.router.ask import Ask
from softprompt_serve.router.plan import Plan, matches


def holds(ask: Ask, **match: Any) -> bool:
    return matches(Match.model_validate(match), ask)


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        (Ask(cohort="regulated"), True),
        (Ask(cohort="multilingual"), True),
        (Ask(cohort="other"), False),
        (Ask(), False),
    ],
)
def test_a_rule_by_cohort_matches_any_of_its_cohorts(ask: Ask, expected: bool) -> None:
    assert holds(ask, cohort=["regulated", "multilingual"]) is expected


def test_a_rule_by_a_derived_cohort_matches_by_its_label() -> None:
    assert holds(Ask(cohort="long_context", long_context=True), cohort=["long_context"])
    assert holds(Ask(cohort="tool_calling", tools=True), cohort=["tool_calling"])


def test_who_declares_a_cohort_is_in_the_derived_one_too() -> None:
    ask = Ask(cohort="regulated", tools=True, long_context=True)
    assert holds(ask, cohort=["regulated"])
    assert holds(ask, cohort=["tool_calling"])
    assert holds(ask, cohort=["long_context"])


def test_who_is_long_and_calls_tools_is_in_both_derived_cohorts() -> None:
    ask = Ask(cohort="long_context", tools=True, long_context=True)
    assert holds(ask, cohort=["tool_calling"])
    assert holds(ask, cohort=["long_context"])


def test_a_rule_for_those_in_no_cohort() -> None:
    assert holds(Ask(), cohort=["default"])
    assert not holds(Ask(cohort="other"), cohort=["default"])


@pytest.mark.parametrize(("route", "expected"), [("planner", True), ("retriever", False)])
def test_a_rule_by_route(route: str, expected: bool) -> None:
    assert holds(Ask(route=route), route=["planner", "final_answer"]) is expected


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("offered", [True, False])
def test_a_rule_by_tools(wanted: bool, offered: bool) -> None:
    assert holds(Ask(tools=offered), tools=wanted) is (wanted is offered)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x-tier": "gold", "x-region": "eu"}, True),
        ({"x-tier": "silver", "x-region": "eu"}, True),
        ({"x-tier": "gold"}, False),
        ({"x-tier": "bronze", "x-region": "eu"}, False),
        ({"x-tier": "Gold", "x-region": "eu"}, False),
        ({}, False),
    ],
)
def test_a_rule_by_headers_wants_all_of_them_with_one_of_their_values(
    headers: dict[str, str], expected: bool
) -> None:
    wanted = {"x-tier": ["gold", "silver"], "x-region": ["eu"]}
    assert holds(Ask(headers=headers), headers=wanted) is expected


@pytest.mark.parametrize(
    ("bounds", "inside", "outside"),
    [
        ({"min": 10}, (10, 11, 10**6), (0, 9)),
        ({"max": 10}, (0, 9, 10), (11,)),
        ({"min": 10, "max": 12}, (10, 11, 12), (9, 13)),
        ({"min": 0}, (0,), ()),
    ],
)
def test_a_rule_by_visible_tokens_includes_its_bounds(
    bounds: dict[str, int], inside: tuple[int, ...], outside: tuple[int, ...]
) -> None:
    assert all(holds(Ask(visible_tokens=count), visible_tokens=bounds) for count in inside)
    assert not any(holds(Ask(visible_tokens=count), visible_tokens=bounds) for count in outside)


def test_tokens_that_were_not_counted_are_in_no_range() -> None:
    assert not holds(Ask(), visible_tokens={"max": 10})


def test_all_conditions_of_a_rule_must_hold() -> None:
    match = {"route": ["planner"], "tools": True, "visible_tokens": {"min": 5}}
    assert holds(Ask(route="planner", tools=True, visible_tokens=5), **match)
    assert not holds(Ask(route="planner", tools=True, visible_tokens=4), **match)
    assert not holds(Ask(route="planner", visible_tokens=5), **match)
    assert not holds(Ask(tools=True, visible_tokens=5), **match)


def plan(*rules: dict[str, Any]) -> Plan:
    spec = RolloutSpec.model_validate({"arms": arms(v1=1, v2=1), "rules": list(rules)})
    return Plan.of("support", spec, {"v1": 90, "v2": 10})


def test_a_plan_takes_the_current_weights_not_the_documents() -> None:
    assert [(name, weight) for name, _, weight in plan().split.arms] == [("v1", 90), ("v2", 10)]


def test_no_rule_that_matches_means_the_main_split() -> None:
    found = plan(rule(tools=True))
    assert found.find(Ask()) == (None, found.split)


@pytest.mark.parametrize(
    ("match", "needed"),
    [
        ({"visible_tokens": {"min": 1}}, True),
        ({"cohort": ["regulated", "long_context"]}, True),
        ({"cohort": ["default"]}, True),  # or a long request would be taken for one of these
        ({"cohort": ["regulated"]}, False),
        ({"cohort": ["tool_calling"]}, False),
        ({"tools": True}, False),
    ],
)
def test_tokens_are_counted_only_where_a_rule_turns_on_them(
    match: dict[str, Any], needed: bool
) -> None:
    assert plan(rule(route=["planner"]), rule("second", **match)).needs_tokens is needed


def test_a_plan_without_rules_needs_no_tokens() -> None:
    assert not plan().needs_tokens
