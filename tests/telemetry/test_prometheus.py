"""Requests as metrics by version."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry
from router.catalogues import version

from softprompt_serve.router.choose import Decision
from softprompt_serve.telemetry.events import Events, Refusal, RequestEvent
from softprompt_serve.telemetry.prometheus import RequestMetrics

VERSION = version("v4")
LABELS = {
    "prompt": "support",
    "version": "v4",
    "arm": "v4",
    "cohort": "regulated",
    "route": "planner",
}


def event(
    status: int = 200, error: str | None = None, passed_over: str | None = None
) -> RequestEvent:
    decision = Decision(
        VERSION,
        "split",
        "v4",
        3,
        cohort="regulated",
        route="planner",
        passed_over=passed_over,
    )
    return RequestEvent(
        request_id="r",
        decision=decision,
        status=status,
        error=error,
        started_at=0.0,
        ttft_seconds=None if error else 0.25,
        e2e_seconds=2.0,
        visible_tokens=10,
        virtual_tokens=20,
        cached_tokens=0,
        output_tokens=5,
        finish_reasons=("stop",),
    )


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def test_a_request_is_counted_and_timed_by_version_cohort_and_route(
    registry: CollectorRegistry,
) -> None:
    RequestMetrics(registry)(event())
    value = registry.get_sample_value
    assert value("softprompt_requests_total", LABELS | {"status": "200"}) == 1
    name = "softprompt_time_to_first_token_seconds"
    assert value(f"{name}_bucket", LABELS | {"le": "0.2"}) == 0
    assert value(f"{name}_bucket", LABELS | {"le": "0.3"}) == 1
    assert value("softprompt_request_duration_seconds_sum", LABELS) == 2.0
    assert value("softprompt_request_errors_total", LABELS | {"error": "http_400"}) is None


def test_a_failure_of_the_server_is_an_error_and_a_bad_request_is_none(
    registry: CollectorRegistry,
) -> None:
    metrics = RequestMetrics(registry)
    metrics(event(503, "softprompt_lost"))
    metrics(event(400, "http_400"))
    value = registry.get_sample_value
    assert value("softprompt_request_errors_total", LABELS | {"error": "softprompt_lost"}) == 1
    assert value("softprompt_request_errors_total", LABELS | {"error": "http_400"}) is None
    assert value("softprompt_requests_total", LABELS | {"status": "400"}) == 1
    assert value("softprompt_time_to_first_token_seconds_count", LABELS) is None


def test_an_arm_that_was_passed_over_is_counted(registry: CollectorRegistry) -> None:
    RequestMetrics(registry)(event(passed_over="v5"))
    labels = {"prompt": "support", "arm": "v5"}
    assert registry.get_sample_value("softprompt_fallbacks_total", labels) == 1


def test_a_refusal_is_counted_by_its_code(registry: CollectorRegistry) -> None:
    events = Events()
    RequestMetrics(registry).listen_to(events)
    events.emit(Refusal("support", "arm_not_resident"))
    labels = {"prompt": "support", "code": "arm_not_resident"}
    assert registry.get_sample_value("softprompt_refusals_total", labels) == 1
