"""Requests as metrics by version."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from measured import BASE, BUILD, TARIFF, Measured, at
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families
from rollout.events import event
from router.catalogues import rule, snapshot, split

from softprompt_serve.rollout.cost import Prices
from softprompt_serve.telemetry import buckets
from softprompt_serve.telemetry.events import (
    Answered,
    Applied,
    Evaluation,
    Feedback,
    Refusal,
    RequestEvent,
    TraceRef,
)
from softprompt_serve.telemetry.metrics import Metrics
from softprompt_serve.telemetry.metrics_series import TOKENS
from softprompt_serve.telemetry.request_metrics import EVALUATORS

TRACE = TraceRef("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")


def asked(name: str, **changes: str) -> RequestEvent:
    """An answer by a version that was named by an arm, a cohort, a route."""
    found = event(name)
    return replace(found, decision=replace(found.decision, **changes))


def answered(version: str = "v2", trace: TraceRef | None = None) -> Answered:
    return Answered(
        response_id="chatcmpl-1",
        trace=trace,
        prompt="support",
        version=version,
        digest="d",
        arm=version,
        cohort="default",
        route="default",
        generation=3,
        epoch=3,
        compared=True,
        at=0.0,
    )


def test_a_request_is_counted_and_timed_by_version_cohort_and_route() -> None:
    found = Measured().emit(asked("v2", arm="v2", cohort="regulated", route="planner"))
    labels = at(cohort="regulated", route="planner")
    assert found.value("requests_total", **labels, status="200") == 1
    name = "time_to_first_token_seconds"
    assert found.value(f"{name}_bucket", **labels, le="0.17677669529663687") == 0
    assert found.value(f"{name}_bucket", **labels, le="0.25") == 1
    assert found.value("request_duration_seconds_sum", **labels) == 1.0


def test_a_failure_of_the_server_is_an_error_and_a_bad_request_is_none() -> None:
    failed = {"ttft_seconds": None, "output_tokens": 0}
    found = Measured().emit(
        event(status=503, error="softprompt_lost", **failed),
        event(status=400, error="http_400", **failed),
    )
    assert found.value("request_errors_total", **at(), error="softprompt_lost") == 1
    assert found.value("request_errors_total", **at(), error="http_400") is None
    assert found.value("requests_total", **at(), status="400") == 1
    assert found.value("time_to_first_token_seconds_count", **at()) == 0


def test_an_arm_that_was_passed_over_is_counted() -> None:
    found = Measured().emit(asked("v2", passed_over="v5"))
    assert found.value("fallbacks_total", prompt="support", arm="v5") == 1


def test_tokens_are_counted_by_their_sort() -> None:
    found = Measured().emit(event(cached_tokens=16))
    told = {sort: found.value(f"{sort}_tokens_total", **at()) for sort in TOKENS}
    assert told == {"visible": 100, "virtual": 20, "cached": 16, "output": 50}


def test_the_time_between_tokens_leaves_out_the_first() -> None:
    found = Measured().emit(event())
    name = "time_per_output_token_seconds_sum"
    assert found.value(name, **at()) == pytest.approx((1.0 - 0.2) / 49)


def test_an_answer_of_one_token_has_no_time_between_tokens() -> None:
    found = Measured().emit(event(output_tokens=1))
    assert found.value("time_per_output_token_seconds_count", **at()) == 0


def test_queue_and_prefill_are_timed_where_the_engine_told_them() -> None:
    found = Measured().emit(event(queue_seconds=0.03, prefill_seconds=0.1), event())
    assert found.value("queue_seconds_sum", **at()) == pytest.approx(0.03)
    assert found.value("queue_seconds_count", **at()) == 1
    assert found.value("prefill_seconds_sum", **at()) == pytest.approx(0.1)


# Cost


@pytest.mark.parametrize("prices", [Prices(), Prices(input=1.0)])
@pytest.mark.parametrize("tokens", [50, 0])
def test_a_cost_is_absent_without_a_tariff(prices: Prices, tokens: int) -> None:
    bare = {} if tokens else {"visible_tokens": 0, "virtual_tokens": 0}
    found = Measured(prices=prices).emit(Applied(snapshot()), event(output_tokens=tokens, **bare))
    assert found.series("cost_usd_total") == []
    assert found.series("token_cost_per_trace_usd_count") == []


def test_a_cost_is_zero_where_it_is_free() -> None:
    found = Measured(prices=Prices(0.0, 0.0, 0.0, 0.0)).emit(event())
    assert found.value("cost_usd_total", **at()) == 0
    assert found.value("token_cost_per_trace_usd_count", **at()) == 1


def test_the_cost_of_each_whole_answer_is_told_and_that_of_all_requests_added_up() -> None:
    cost = (100 * 1.0 + 20 * 0.5 + 50 * 4.0) / 1e6
    found = Measured(prices=TARIFF).emit(event(), event(status=499, error="http_499"))
    assert found.value("cost_usd_total", **at()) == pytest.approx(2 * cost)
    assert found.value("token_cost_per_trace_usd_count", **at()) == 1
    assert found.value("token_cost_per_trace_usd_sum", **at()) == pytest.approx(cost)


# Feedback and evaluations


def test_feedback_is_counted_for_the_version_that_answered() -> None:
    found = Measured().emit(
        Feedback(answered(), "thumbs_down"), Feedback(answered("v1"), "refund", 12.5)
    )
    assert found.value("feedback_total", **at(), kind="thumbs_down") == 1
    assert found.value("feedback_total", **at("v1"), kind="refund") == 1


def test_verdicts_are_counted_by_evaluator() -> None:
    found = Measured().emit(
        Evaluation(answered(), "faithfulness", passed=True),
        Evaluation(answered(), "faithfulness", passed=False, score=0.2),
        Evaluation(answered(), "faithfulness", passed=False),
    )
    name = {"name": "eval_results_total", "evaluation": "faithfulness"}
    assert found.value(**name, **at(), result="pass") == 1
    assert found.value(**name, **at(), result="fail") == 2


def test_evaluators_names_make_no_series_without_bound() -> None:
    found = Measured().emit(
        *(Evaluation(answered(), f"judge-{i}", passed=True) for i in range(EVALUATORS + 30))
    )
    assert len(found.series("eval_results_total")) == EVALUATORS + 1
    other = found.value("eval_results_total", **at(), evaluation="other", result="pass")
    assert other == found.value("metrics_collapsed_total") == 30


# What labels may say


def test_a_refusal_is_counted_by_its_code() -> None:
    found = Measured().emit(Applied(snapshot()), Refusal("support", "arm_not_resident"))
    assert found.value("refusals_total", prompt="support", code="arm_not_resident") == 1


def test_names_that_clients_invent_make_one_series() -> None:
    found = Measured().emit(
        Applied(snapshot()), *(Refusal(f"guess-{i}", "prompt_not_found") for i in range(50))
    )
    assert found.series("refusals_total") == [{"prompt": "other", "code": "prompt_not_found"}]
    assert found.value("refusals_total", prompt="other", code="prompt_not_found") == 50


def test_arms_beyond_the_limit_are_counted_as_other() -> None:
    found = Measured(arms=2).emit(
        event("v1"), event("v2"), event("v3"), event("v4"), event("v1"), asked("v3", cohort="vip")
    )
    assert found.value("requests_total", **at("v1"), status="200") == 2
    assert found.value("requests_total", **at("v3"), status="200") is None
    other = at("other", prompt="other")
    assert found.value("requests_total", **other, status="200") == 2
    assert found.value("requests_total", **(other | {"cohort": "vip"}), status="200") == 1
    assert found.value("metrics_collapsed_total") == 3


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("abc")), max_size=40),
    st.integers(1, 5),
)
def test_whatever_is_asked_for_there_are_no_more_arms_than_the_limit_and_none_is_lost(
    pairs: list[tuple[str, str]], limit: int
) -> None:
    found = Measured(arms=limit)
    found.emit(*(asked(version, arm=arm) for version, arm in pairs))
    series = found.series("requests_total")
    arms = {(labels["version"], labels["arm"]) for labels in series}
    assert len(arms - {("other", "other")}) == min(limit, len(set(pairs)))
    assert sum(found.shown("requests_total", "version", "arm").values()) == len(pairs)


def test_an_arm_that_passed_over_is_bounded_too() -> None:
    found = Measured(arms=3)
    found.emit(*(asked("v2", passed_over=f"v{i}") for i in range(10, 30)))
    assert len(found.series("fallbacks_total")) == 4


# Series that begin with 0


def test_what_a_name_can_mean_is_there_with_zero_before_anybody_asks() -> None:
    found = Measured(prices=TARIFF).emit(Applied(snapshot()))
    for labels in (at("v1", "production"), at("v2", "candidate")):
        assert found.value("requests_total", **labels, status="200") == 0
        assert found.value("request_errors_total", **labels, error="engine_error") == 0
        assert found.value("feedback_total", **labels, kind="thumbs_down") == 0
        assert found.value("output_tokens_total", **labels) == 0
        assert found.value("time_to_first_token_seconds_count", **labels) == 0
        assert found.value("cost_usd_total", **labels) == 0
    assert len(found.series("output_tokens_total")) == 2


def test_arms_and_rules_of_a_rollout_begin_with_zero_also_at_weight_0() -> None:
    found = Measured().emit(Applied(split(rule(version="v3", cohort=["vip"]), v1=100, v2=0)))
    for labels in (at("v1"), at("v2"), at("v3")):
        assert found.value("requests_total", **labels, status="200") == 0


def test_an_unloaded_version_begins_nothing() -> None:
    found = Measured().emit(Applied(snapshot(unloaded=("v2",))))
    assert [labels["arm"] for labels in found.series("output_tokens_total")] == ["production"]


def test_an_arm_begins_in_the_cohorts_and_routes_that_its_prompt_was_asked_in() -> None:
    found = Measured().emit(
        asked("v1", arm="production", cohort="regulated", route="planner"),
        Applied(split(v1=99, v2=1)),
    )
    labels = at("v2", cohort="regulated", route="planner")
    assert found.value("requests_total", **labels, status="200") == 0


def test_what_begins_leaves_half_of_the_room_to_what_is_asked_for() -> None:
    found = Measured(arms=4).emit(Applied(split(v1=1, v2=1, v3=1)))
    assert len(found.series("output_tokens_total")) == 2
    found.emit(event("v3"), event("v4"), event("v5"))
    versions = {labels["version"] for labels in found.series("output_tokens_total")}
    assert versions == {"v1", "v2", "v3", "v4", "other"}


def test_beginning_again_counts_nothing_away() -> None:
    found = Measured().emit(Applied(split(v1=1)), event("v1"), Applied(split(v1=1)))
    assert found.value("requests_total", **at("v1"), status="200") == 1
    assert found.value("metrics_collapsed_total") == 0


# Exemplars and formats


def full(trace: TraceRef | None = TRACE) -> Measured:
    """Every metric with something in it."""
    return Measured(prices=TARIFF).emit(
        Applied(split(v1=99, v2=1)),
        event(queue_seconds=0.1, prefill_seconds=0.1, lease_wait_seconds=0.5, trace=trace),
        event(status=500, error="engine_error", trace=trace),
        Feedback(answered(trace=trace), "thumbs_up"),
        Evaluation(answered(trace=trace), "judge", passed=True),
        Refusal("support", "arm_not_resident"),
    )


def exemplars(found: Measured) -> dict[str, dict[str, str]]:
    written = openmetrics.generate_latest(found.registry).decode()
    return {
        sample.name: sample.exemplar.labels
        for family in openmetrics_parser.text_string_to_metric_families(written)
        for sample in family.samples
        if sample.exemplar is not None
    }


def test_measurements_lead_to_their_trace_in_openmetrics() -> None:
    told = exemplars(full())
    histograms = (
        "time_to_first_token_seconds time_per_output_token_seconds request_duration_seconds "
        "queue_seconds prefill_seconds token_cost_per_trace_usd bank_lease_wait_seconds"
    )
    counters = "requests request_errors feedback eval_results"
    assert told.keys() == {
        *(f"softprompt_{name}_bucket" for name in histograms.split()),
        *(f"softprompt_{name}_total" for name in counters.split()),
    }
    for labels in told.values():
        assert labels == {"trace_id": TRACE.trace_id, "span_id": TRACE.span_id}


@pytest.mark.parametrize("trace", [None, replace(TRACE, sampled=False)])
def test_a_trace_that_is_not_recorded_is_no_exemplar(trace: TraceRef | None) -> None:
    assert exemplars(full(trace)) == {}


def test_the_plain_format_says_the_same_without_exemplars() -> None:
    found = full()
    text = generate_latest(found.registry).decode()
    families = {f.name: f for f in text_string_to_metric_families(text)}
    assert "trace_id" not in text
    (total,) = (
        sample.value
        for sample in families["softprompt_requests"].samples
        if sample.labels == at() | {"status": "200"}
    )
    assert total == 1


def test_the_build_is_told() -> None:
    assert Measured().value("build_info", **BUILD, base_model=BASE) == 1


def test_what_is_lost_is_counted_from_any_thread() -> None:
    found = Measured()

    def lose() -> None:
        for _ in range(500):
            found.metrics.dropped("span", "queue_full", 2)

    threads = [threading.Thread(target=lose) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.value("telemetry_dropped_total", what="span", reason="queue_full") == 8000


def test_a_registry_has_these_metrics_once() -> None:
    registry = CollectorRegistry()
    given = {"base_model": BASE, "prices": Prices(), "arms": 1, "build": {}}
    Metrics(registry, **given)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Duplicated"):
        Metrics(registry, **given)  # type: ignore[arg-type]


# Buckets


@pytest.mark.parametrize("bounds", [buckets.SECONDS, buckets.TOKEN_SECONDS])
def test_bounds_of_latencies_are_those_of_native_histograms_of_schema_1(
    bounds: tuple[float, ...],
) -> None:
    for low, high in pairwise(bounds):
        assert high / low == pytest.approx(math.sqrt(2))
    assert all(2 * bound in bounds for bound in bounds[:-2])
    assert 1.0 in bounds


@pytest.mark.parametrize(
    ("bounds", "least", "most"),
    [
        (buckets.SECONDS, 0.004, 360.0),
        (buckets.TOKEN_SECONDS, 0.001, 5.0),
        (buckets.WAIT_SECONDS, 0.001, 240.0),
        (buckets.USD, 1.2e-7, 1.0),
        (buckets.NATS, 0.001, 8.0),
    ],
)
def test_bounds_reach_as_far_as_they_must(
    bounds: tuple[float, ...], least: float, most: float
) -> None:
    assert bounds[0] <= least
    assert bounds[-1] >= most
    assert len(bounds) <= 34
