"""Shadows, as metrics."""

from __future__ import annotations

from typing import Any

import pytest
from measured import BASE, Measured
from router.catalogues import arms, rollout, snapshot

from softprompt_serve.telemetry.events import Applied, ShadowEvent

LABELS = {"prompt": "support", "version": "v2", "against": "v1", "base_model": BASE}


def told(stage: Any, *, version: str = "v2", cohort: str = "vip", **more: Any) -> ShadowEvent:
    return ShadowEvent("support", cohort, version, "v1", stage, **more)


def test_each_stage_of_a_copy_is_counted() -> None:
    found = Measured().emit(
        told("offered"),
        told("shed", cause="busy"),
        told("compared", matched=True),
        told("compared", matched=False),
        told("scored", divergence=0.3),
    )
    labels = LABELS | {"cohort": "vip"}
    assert found.value("shadow_offered_total", **labels) == 1
    assert found.value("shadow_shed_total", **labels, cause="busy") == 1
    assert found.value("shadow_pairs_total", **labels, result="match") == 1
    assert found.value("shadow_pairs_total", **labels, result="mismatch") == 1
    assert found.value("shadow_divergence_nats_sum", **labels) == 0.3
    assert found.value("shadow_divergence_nats_bucket", **labels, le="0.25") == 0
    assert found.value("shadow_divergence_nats_bucket", **labels, le="0.5") == 1


def test_a_divergence_below_zero_never_lets_the_sum_fall() -> None:
    found = Measured().emit(told("scored", divergence=0.5), told("scored", divergence=-0.2))
    labels = LABELS | {"cohort": "vip"}
    assert found.value("shadow_divergence_nats_sum", **labels) == 0.5
    assert found.value("shadow_divergence_nats_bucket", **labels, le="0.0009765625") == 1


def test_a_shadow_begins_with_zero() -> None:
    document = {"arms": arms(v1=1), "shadow": {"version": "v2", "sample": 0.1}}
    found = Measured().emit(Applied(snapshot(routed=rollout(document))))
    labels = LABELS | {"cohort": "default"}
    assert found.value("shadow_offered_total", **labels) == 0
    assert found.value("shadow_pairs_total", **labels, result="mismatch") == 0
    assert found.value("shadow_divergence_nats_count", **labels) == 0


@pytest.mark.parametrize("limit", [1, 3])
def test_shadows_beyond_the_limit_are_counted_as_other(limit: int) -> None:
    found = Measured(arms=limit)
    found.emit(*(told("offered", version=f"v{i}") for i in range(5)))
    other = dict.fromkeys(("prompt", "version", "against"), "other")
    labels = {**other, "cohort": "vip", "base_model": BASE}
    assert found.value("shadow_offered_total", **labels) == 5 - limit
    assert found.value("metrics_collapsed_total") == 5 - limit
