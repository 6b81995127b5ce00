"""The document's shape: what is refused before anything is looked up."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from softprompt_serve.rollout.spec import MAX_WEIGHT, Gate, RolloutSpec

ARMS = [{"version": "v1", "weight": 1}]


def fault(**document: Any) -> str:
    """Where the first problem is, as a path."""
    with pytest.raises(ValidationError) as caught:
        RolloutSpec.model_validate({"arms": ARMS} | document)
    return ".".join(str(part) for part in caught.value.errors()[0]["loc"])


def rule(**given: Any) -> dict[str, Any]:
    return {"name": "r", "match": {"tools": True}, "version": "v1"} | given


def test_one_arm_is_a_whole_document() -> None:
    spec = RolloutSpec.model_validate({"arms": ARMS})
    assert (spec.total_weight, spec.versions(), spec.rules, spec.steps) == (1, {"v1"}, (), ())


def test_a_document_survives_being_written_down() -> None:
    spec = RolloutSpec.model_validate(
        {
            "arms": ARMS,
            "rules": [
                rule(match={"visible_tokens": {"min": 5}, "headers": {"x-a": ["b"]}}),
                rule(name="s", version=None, split=ARMS),
            ],
            "shadow": {"version": "v2", "sample": 0.1},
            "steps": [{"weight": 1}],
            "gates": [{"metric": "ttft", "quantile": 0.99, "max_ratio": 1.2}],
        }
    )
    assert RolloutSpec.model_validate_json(spec.model_dump_json(exclude_none=True)) == spec


@pytest.mark.parametrize("weight", [-1, MAX_WEIGHT + 1, 1.5, "1", True, None])
def test_a_weight_is_a_whole_number_in_its_bounds(weight: Any) -> None:
    assert fault(arms=[{"version": "v1", "weight": weight}]) == "arms.0.weight"


@pytest.mark.parametrize("weight", [0, MAX_WEIGHT])
def test_a_weight_may_reach_its_bounds(weight: int) -> None:
    RolloutSpec.model_validate({"arms": [*ARMS, {"version": "v2", "weight": weight}]})


@pytest.mark.parametrize(
    ("document", "where"),
    [
        ({"arms": []}, "arms"),
        ({"arms": [{"version": "V 1", "weight": 1}]}, "arms.0.version"),
        ({"arms": [{"version": "v1", "weight": 1, "wieght": 2}]}, "arms.0.wieght"),
        ({"arms": ARMS * 101}, "arms"),
        ({"roules": []}, "roules"),
        ({"rules": [rule(version=None)]}, "rules.0"),
        ({"rules": [rule(split=ARMS)]}, "rules.0"),
        ({"rules": [rule(version=None, split=[])]}, "rules.0.split"),
        ({"rules": [rule(match={})]}, "rules.0.match"),
        ({"rules": [rule(match={"tools": None})]}, "rules.0.match"),
        ({"rules": [rule(match={"cohort": []})]}, "rules.0.match.cohort"),
        ({"rules": [rule(match={"headers": {}})]}, "rules.0.match.headers"),
        ({"rules": [rule(match={"headers": {"x-a": []}})]}, "rules.0.match.headers.x-a"),
        (
            {"rules": [rule(match={"visible_tokens": {"min": 2, "max": 1}})]},
            "rules.0.match.visible_tokens",
        ),
        ({"rules": [rule(match={"visible_tokens": {}})]}, "rules.0.match.visible_tokens"),
        ({"shadow": {"version": "v1", "sample": 0}}, "shadow.sample"),
        ({"shadow": {"version": "v1", "sample": 1.1}}, "shadow.sample"),
        ({"steps": [{"weight": 0}]}, "steps.0.weight"),
        ({"steps": [{"weight": 1, "min_requests": 0}]}, "steps.0.min_requests"),
        ({"gates": [{"metric": "beauty", "max": 1}]}, "gates.0.metric"),
        ({"gates": [{"metric": "ttft", "max": 1}]}, "gates.0"),
        ({"gates": [{"metric": "error_rate", "quantile": 0.5, "max": 1}]}, "gates.0"),
        ({"gates": [{"metric": "error_rate", "max_ratio": 2}]}, "gates.0"),
        ({"gates": [{"metric": "error_rate"}]}, "gates.0"),
        ({"gates": [{"metric": "shadow_mismatch", "max_increase": 0.1}]}, "gates.0"),
        ({"alpha": 0.5}, "alpha"),
        ({"on_failure": "pray"}, "on_failure"),
    ],
)
def test_what_is_wrong_is_named_by_its_place(document: dict[str, Any], where: str) -> None:
    assert fault(**document) == where


def test_a_document_cannot_change() -> None:
    with pytest.raises(ValidationError):
        RolloutSpec.model_validate({"arms": ARMS}).alpha = 0.1


@pytest.mark.parametrize(
    ("gate", "label"),
    [
        ({"metric": "error_rate", "max_increase": 0.02}, "error_rate max_increase 0.02"),
        ({"metric": "ttft", "quantile": 0.99, "max_ratio": 1.2}, "ttft p99 max_ratio 1.2"),
    ],
)
def test_a_gate_has_a_short_name(gate: dict[str, Any], label: str) -> None:
    assert Gate.model_validate(gate).label == label
