"""Changes, as metrics."""

from __future__ import annotations

import pytest
from measured import Measured
from router.catalogues import snapshot

from softprompt_serve.registry.snapshot import EMPTY
from softprompt_serve.rollout.progress import ACTOR
from softprompt_serve.telemetry.events import Applied, Operation, Seen


def made(
    name: str = "alias",
    prompt: str = "support",
    *,
    actor: str | None = "anna",
    error: str | None = None,
) -> Operation:
    return Operation(name, prompt, "production", actor, 0.0, 0.5, error)


def test_a_change_is_counted_and_timed() -> None:
    found = Measured().emit(Applied(snapshot()), made())
    assert found.value("operations_total", operation="alias", prompt="support", result="ok") == 1
    assert found.value("operation_seconds_sum", operation="alias") == 0.5


def test_a_change_that_failed_is_counted_by_its_code_and_not_timed() -> None:
    found = Measured().emit(Applied(snapshot()), made(error="bank_full"))
    labels = {"operation": "alias", "prompt": "support", "result": "bank_full"}
    assert found.value("operations_total", **labels) == 1
    assert found.series("operation_seconds_count") == []


def test_a_prompt_that_was_only_read_has_its_name() -> None:
    found = Measured().emit(Applied(EMPTY), Seen(snapshot()), made("import"))
    assert found.value("operations_total", operation="import", prompt="support", result="ok") == 1


def test_names_of_no_prompt_make_one_series() -> None:
    found = Measured().emit(Applied(snapshot()))
    found.emit(*(made(prompt=f"guess-{i}", error="prompt_not_found") for i in range(20)))
    assert [labels["prompt"] for labels in found.series("operations_total")] == ["other"]


@pytest.mark.parametrize("decision", ["advance", "promote", "rollback", "pause", "resume"])
def test_what_the_controller_did_is_a_decision(decision: str) -> None:
    found = Measured().emit(Applied(snapshot()), made(decision, actor=ACTOR))
    assert found.value("controller_decisions_total", prompt="support", decision=decision) == 1


def test_what_a_person_did_or_the_controller_failed_to_do_is_none() -> None:
    found = Measured().emit(
        Applied(snapshot()), made("promote"), made("promote", actor=ACTOR, error="stale_generation")
    )
    assert found.series("controller_decisions_total") == []
