"""Requests as metrics by version."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry
from router.catalogues import version

from softprompt_serve.rollout.cost import Prices
from softprompt_serve.router.choose import Decision
from softprompt_serve.telemetry.events import Events, Refusal, RequestEvent
from softprompt_serve.telemetry.prometheus import TOKENS, RequestMetrics

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


def test_tokens_are_counted_by_their_sort(registry: CollectorRegistry) -> None:
    RequestMetrics(registry)(event())
    value = registry.get_sample_value
    found = {sort: value(f"softprompt_{sort}_tokens_total", LABELS) for sort in TOKENS}
    assert found == {"visible": 10, "virtual": 20, "cached": 0, "output": 5}


def test_the_time_between_tokens_leaves_out_the_first(registry: CollectorRegistry) -> None:
    RequestMetrics(registry)(event())
    name = "softprompt_time_per_output_token_seconds_sum"
    assert registry.get_sample_value(name, LABELS) == pytest.approx((2.0 - 0.25) / 4)


def test_an_answer_of_one_token_has_no_time_between_tokens(registry: CollectorRegistry) -> None:
    RequestMetrics(registry)(replace(event(), output_tokens=1))
    name = "softprompt_time_per_output_token_seconds_count"
    assert registry.get_sample_value(name, LABELS) is None


def test_a_cost_is_absent_without_a_tariff_and_zero_where_it_is_free(
    registry: CollectorRegistry,
) -> None:
    RequestMetrics(registry)(event())
    assert registry.get_sample_value("softprompt_cost_usd_total", LABELS) is None
    free, priced = CollectorRegistry(), CollectorRegistry()
    RequestMetrics(free, Prices(0, 0, 0, 0))(event())
    assert free.get_sample_value("softprompt_cost_usd_total", LABELS) == 0
    RequestMetrics(priced, Prices(input=1, virtual=0.5, output=4))(event())
    cost = (10 * 1 + 20 * 0.5 + 5 * 4) / 1e6
    assert priced.get_sample_value("softprompt_cost_usd_total", LABELS) == pytest.approx(cost)
