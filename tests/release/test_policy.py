from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from softprompt_serve.errors import BadRequest
from softprompt_serve.release.policy import MAX_POLICY_BYTES, Policy, Watch, parse_policy

YAML = """
baseline: v1
guarded: [production, staging]
win:
  - {evaluator: exact_match, dataset: support-test, margin: 0.02, confidence: 0.99}
hold:
  - {evaluator: exact_match, dataset: support-ood, max_drop: 0.05}
  - {evaluator: mmlu_pro/exact_match, dataset: mmlu_pro, against: base}
cohorts:
  protected: [regulated, multilingual]
  max_drop: 0.01
latency: {p99_seconds: 2, max_ratio: 1.2}
cost: {max_ratio: 1.1}
max_age_days: 7
"""


def refused(given: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        parse_policy(given)
    assert caught.value.code == "invalid_policy"
    return caught.value


def test_a_policy_is_read_from_yaml() -> None:
    policy = parse_policy(YAML)
    assert policy.guarded == ("production", "staging")
    assert policy.win[0].margin == 0.02
    assert [hold.against for hold in policy.hold] == ["baseline", "base"]
    assert policy.cohorts.protected == ("regulated", "multilingual")
    assert policy.latency is not None
    assert policy.latency.p99_seconds == 2.0


def test_a_policy_needs_no_more_than_a_baseline() -> None:
    policy = parse_policy("baseline: v1")
    assert policy == Policy(baseline="v1")
    assert (policy.guarded, policy.kinds, policy.win) == (("production",), ("soft", "prefix"), ())
    assert (policy.min_items, policy.max_age_days, policy.same_base) == (50, 30.0, True)


def test_the_policy_in_the_documentation_is_one() -> None:
    page = (Path(__file__).parents[2] / "docs" / "gates.md").read_text()
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert parse_policy(text).min_items == 100


def test_every_field_of_a_policy_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "gates.md").read_text()
    assert [name for name in Policy.model_fields if f"`{name}`" not in page] == []


def test_what_follows_of_reruns_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "drift.md").read_text()
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert parse_policy("baseline: v1\n" + text).watch.on_shift == "rollback"
    assert [name for name in Watch.model_fields if f"| `{name}` |" not in page] == []


@pytest.mark.parametrize("form", [json.dumps, lambda data: json.dumps(data).encode(), dict])
def test_what_a_policy_writes_it_reads(form: Any) -> None:
    policy = parse_policy(YAML)
    assert parse_policy(form(policy.to_json())) == policy


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"baselin": "v1"}, "baselin"),
        ({"baseline": "V 1"}, "baseline"),
        ({"guarded": []}, "guarded"),
        ({"kinds": ["deep"]}, "kinds.0"),
        ({"win": [{"evaluator": "f1"}]}, "win.0.dataset"),
        ({"win": [{"evaluator": "f1", "dataset": "d", "margin": -0.1}]}, "win.0.margin"),
        ({"win": [{"evaluator": "f1", "dataset": "d", "margin": float("nan")}]}, "win.0.margin"),
        ({"hold": [{"evaluator": "f1", "dataset": "d", "confidence": 1}]}, "hold.0.confidence"),
        ({"hold": [{"evaluator": "f1", "dataset": "d", "max_drop": -1}]}, "hold.0.max_drop"),
        ({"cohorts": {"protected": ["a b"]}}, "cohorts.protected.0"),
        ({"cohorts": {"min_items": 0}}, "cohorts.min_items"),
        ({"latency": {}}, "latency"),
        ({"cost": {"mean_usd": 0}}, "cost.mean_usd"),
        ({"max_age_days": float("inf")}, "max_age_days"),
        ({"watch": {"on_shift": "page"}}, "watch.on_shift"),
        ({"watch": {"confidence": 0.4}}, "watch.confidence"),
        ({"watch": {"datasets": []}}, "watch.datasets"),
        ({"watch": {"retire_below": -0.01}}, "watch.retire_below"),
        ({"unverified_max_weight": 1.5}, "unverified_max_weight"),
    ],
)
def test_a_field_that_is_wrong_is_named(changes: dict[str, Any], field: str) -> None:
    error = refused({"baseline": "v1"} | changes)
    assert error.param == field
    assert field in error.message


def test_a_rerun_only_reports_unless_a_policy_says_more() -> None:
    watch = parse_policy("baseline: v1").watch
    assert (watch.on_shift, watch.confidence, watch.retire_below) == ("report", 0.99, 0.02)
    assert watch.counts("anything")


def test_a_policy_may_name_the_data_sets_that_count() -> None:
    watch = parse_policy({"baseline": "v1", "watch": {"datasets": ["support-test"]}}).watch
    assert watch.counts("support-test")
    assert not watch.counts("support-ood")


def test_the_same_thing_is_asked_once() -> None:
    win = {"evaluator": "f1", "dataset": "d"}
    assert "stand there twice" in refused({"baseline": "v1", "win": [win, win]}).message


def test_a_drop_may_be_held_against_several() -> None:
    hold = {"evaluator": "f1", "dataset": "d"}
    assert parse_policy({"baseline": "v1", "hold": [hold, hold | {"against": "base"}]})


def test_a_policy_without_a_baseline_is_none() -> None:
    assert refused("win: []").param == "baseline"


@pytest.mark.parametrize(
    "text", ["", "[v1]", "baseline: [", '{"baseline": ', b"\xff\xfe", "- " * 30_000, "!!python/x 1"]
)
def test_what_is_no_mapping_in_yaml_or_json_is_refused(text: str | bytes) -> None:
    assert refused(text).param is None


def test_a_policy_has_bounds() -> None:
    assert str(MAX_POLICY_BYTES) in refused("#" * (MAX_POLICY_BYTES + 1)).message
