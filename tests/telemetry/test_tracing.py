"""Spans as a real receiver gets them, over both protocols, and what becomes of them if there is none."""

from __future__ import annotations

import os
import re
import socket
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from openinference.semconv.trace import OpenInferenceSpanKindValues, SpanAttributes
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import error_attributes, http_attributes
from otlp_receiver import Received, Receiver
from rollout.events import event

from softprompt_serve.errors import StartupRefused
from softprompt_serve.rollout.cost import Prices
from softprompt_serve.telemetry import otlp, span_names
from softprompt_serve.telemetry.channel import Events
from softprompt_serve.telemetry.events import (
    Answered,
    Evaluation,
    Feedback,
    Operation,
    TraceRef,
)
from softprompt_serve.telemetry.spans import Describer
from softprompt_serve.telemetry.tracing import Tracing
from softprompt_serve.testing import settings_for_tests

if TYPE_CHECKING:
    from collections.abc import Iterator

CHAT = "/v1/chat/completions"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CALLER = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1"}
DESCRIBER = Describer("base", "r1", Prices(input=1.0, cached_input=0.5, virtual=0.0, output=2.0))


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


@pytest.fixture(params=["grpc", "http/protobuf"])
def receiver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with Receiver(request.param) as receiver:
        for name, value in receiver.environ.items():
            monkeypatch.setenv(name, value)
        yield receiver


@pytest.fixture
def http(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with Receiver("http/protobuf") as receiver:
        for name, value in receiver.environ.items():
            monkeypatch.setenv(name, value)
        yield receiver


def tracing(home: Path, drops: Counter[str] | None = None, **settings: Any) -> Tracing:
    def drop(reason: str, count: int) -> None:
        if drops is not None:
            drops[reason] += count

    made = Tracing.from_environment(
        settings_for_tests(home, **settings), DESCRIBER, version="1.2", on_drop=drop
    )
    assert made is not None
    return made


def answered(trace: TraceRef | None) -> Answered:
    return Answered(
        response_id="chatcmpl-1",
        trace=trace,
        prompt="support",
        version="v2",
        digest="d" * 64,
        arm="v2",
        cohort="default",
        route="default",
        generation=1,
        epoch=1,
        compared=True,
        at=0.0,
    )


def one(receiver: Receiver, name: str) -> Received:
    (found,) = receiver.wait_for(lambda span: span.name == name)
    return found


def test_a_request_is_one_server_span_below_its_caller_s(
    receiver: Receiver, tmp_path: Path
) -> None:
    traced = tracing(tmp_path)
    span = traced.begin(CALLER, "POST", CHAT)
    child = span.headers()
    ended = event("v2", status=200)
    span.end(ended, status=200)
    span.end(ended, status=500)  # the first end counts
    found = one(receiver, "chat support")
    assert (found.trace_id, found.parent_id) == (TRACE, SPAN)
    assert child["traceparent"] == f"00-{TRACE}-{found.span_id}-01"
    assert child["tracestate"] == "vendor=1"
    assert (found.kind, found.status) == (2, 0)
    assert span.ref == TraceRef(TRACE, found.span_id)
    assert found.resource["service.name"] == "softprompt-serve"
    assert found.resource["service.version"] == "1.2"


def test_its_attributes_have_the_conventions_names_and_types(
    receiver: Receiver, tmp_path: Path
) -> None:
    traced = tracing(tmp_path)
    span = traced.begin({}, "POST", CHAT)
    ended = replace(
        event("v2", status=200),
        visible_tokens=30,
        virtual_tokens=20,
        cached_tokens=20,
        output_tokens=10,
        ttft_seconds=0.25,
        finish_reasons=("stop",),
        response_id="chatcmpl-1",
        lease_wait_seconds=0.1,
    )
    span.end(ended, status=200)
    found = one(receiver, "chat support")
    version = ended.decision.version
    assert found.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.prompt.name": "support",
        "gen_ai.prompt.version": "v2",
        "gen_ai.request.model": "support",
        "gen_ai.response.model": "support@v2",
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.response.time_to_first_chunk": 0.25,
        "gen_ai.usage.input_tokens": 50,
        "gen_ai.usage.output_tokens": 10,
        "gen_ai.usage.cache_read.input_tokens": 20,
        "openinference.span.kind": OpenInferenceSpanKindValues.LLM.value,
        "llm.model_name": "base",
        "llm.prompt_template.version": "v2",
        "llm.token_count.prompt": 30,
        "llm.token_count.prompt_details.cache_read": 20,
        "llm.token_count.completion": 10,
        "llm.token_count.total": 40,
        "http.request.method": "POST",
        "http.route": CHAT,
        "http.response.status_code": 200,
        "softprompt.name": "support",
        "softprompt.version": "v2",
        "softprompt.digest": version.digest,
        "softprompt.kind": version.kind,
        "softprompt.virtual_tokens": 20,
        "softprompt.arm": ended.decision.arm,
        "softprompt.reason": ended.decision.reason,
        "softprompt.cohort": "default",
        "softprompt.route": "default",
        "softprompt.generation": ended.decision.generation,
        "softprompt.base_model": "base",
        "softprompt.base_model_revision": "r1",
        "softprompt.token_cost_per_trace": pytest.approx((30 * 1.0 + 20 * 0.5 + 10 * 2.0) / 1e6),
    }
    assert found.events == {
        "softprompt.lease_wait": {"softprompt.lease_wait_seconds": 0.1},
        "softprompt.first_token": {},
    }


def test_names_of_conventions_are_those_of_the_packages_that_define_them() -> None:
    ours = {value for name, value in vars(span_names).items() if name.isupper()}
    defined = {
        value
        for package in (gen_ai_attributes, http_attributes, error_attributes)
        for name, value in vars(package).items()
        if name.isupper() and isinstance(value, str)
    } | {value for name, value in vars(SpanAttributes).items() if name.isupper()}
    own = {name for name in ours if name.startswith("softprompt.")}
    undefined = {"gen_ai.prompt.version", "gen_ai.evaluation.result"}
    assert ours - own - undefined <= defined
    assert not undefined & defined, "they are defined now: say so in the docs"


@pytest.mark.parametrize(
    ("status", "error", "marked"),
    [(503, "softprompt_lost", 2), (404, "version_not_found", 0), (499, "http_499", 0)],
)
def test_a_failure_says_why_and_only_the_servers_own_are_errors(
    http: Receiver, tmp_path: Path, status: int, error: str, marked: int
) -> None:
    span = tracing(tmp_path).begin({}, "POST", CHAT)
    span.end(replace(event("v2", status=status), error=error), status=status)
    found = one(http, "chat support")
    assert (found.attributes["error.type"], found.status) == (error, marked)


def test_a_refusal_names_the_prompt_and_the_base_model_none(http: Receiver, tmp_path: Path) -> None:
    traced = tracing(tmp_path)
    traced.begin({}, "POST", CHAT).end(None, status=404, prompt="support", error="no_such")
    traced.begin({}, "POST", "/v1/completions").end(None, status=200)
    refused, base = one(http, "chat"), one(http, "text_completion")
    assert refused.attributes["softprompt.name"] == "support"
    assert refused.attributes["error.type"] == "no_such"
    assert "softprompt.name" not in base.attributes
    assert base.parent_id == ""


def test_what_is_not_sampled_sends_nothing_and_hands_nothing_on(
    http: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    traced = tracing(tmp_path, trace_content=True)
    span = traced.begin({}, "POST", CHAT)
    assert span.headers() == {}
    assert not span.ref.sampled
    assert not span.wants_content
    span.content("input", "x")
    span.end(event("v2", status=200), status=200)
    sampled = traced.begin(CALLER, "POST", CHAT)
    sampled.end(event("v2", status=200), status=200)
    one(http, "chat support")
    assert len(http.received) == 1


def redacted(kind: str, text: str) -> str | None:
    if "fail" in text:
        raise ValueError(text)
    return None if kind == "output" else text.replace("Ada", "X")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, {}),
        ({"trace_content": True}, {"input.value": "Ada is 36", "output.value": "Yes, Ada."}),
        ({"trace_content": True, "trace_content_chars": 3}, dict.fromkeys(("input.value",), "Ada")),
        (
            {"trace_content": True, "trace_redact": f"{__name__}:redacted"},
            {"input.value": "X is 36"},
        ),
    ],
)
def test_texts_go_on_a_span_only_if_that_is_on_and_past_the_hook(
    http: Receiver, tmp_path: Path, settings: dict[str, Any], told: dict[str, str]
) -> None:
    span = tracing(tmp_path, **settings).begin({}, "POST", CHAT)
    span.content("input", "Ada is 36")
    span.content("output", "Yes, Ada.")
    span.end(event("v2", status=200), status=200)
    found = one(http, "chat support").attributes
    for name, value in told.items():
        assert found[name] == value
    if "trace_content_chars" not in settings:
        assert {name for name in found if name in {"input.value", "output.value"}} == set(told)


def test_a_hook_that_fails_lets_no_text_pass(
    http: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"trace_content": True, "trace_redact": f"{__name__}:redacted"}
    span = tracing(tmp_path, **settings).begin({}, "POST", CHAT)
    span.content("input", "fail")
    span.end(event("v2", status=200), status=200)
    assert "input.value" not in one(http, "chat support").attributes
    assert "SOFTPROMPT_TRACE_REDACT raised" in caplog.text
    assert "fail" not in caplog.text


@pytest.mark.parametrize("hook", ["no_such_module:f", "os:no_such_function", "os:sep"])
def test_a_hook_that_is_none_refuses_the_start(http: Receiver, tmp_path: Path, hook: str) -> None:
    assert http.port
    with pytest.raises(StartupRefused) as caught:
        tracing(tmp_path, trace_content=True, trace_redact=hook)
    assert caught.value.code == "trace_redact_missing"


def test_changes_are_spans_as_long_as_they_took(http: Receiver, tmp_path: Path) -> None:
    events = Events()
    tracing(tmp_path).listen_to(events)
    parent = CALLER["traceparent"]
    swap = Operation("alias", "support", "production", "ada", 1000.0, 0.5, parent=parent)
    events.emit(replace(swap, attributes={"version": "v2", "previous": "v1"}))
    events.emit(replace(swap, name="promote", error="stale_generation", parent=None))
    done, failed = one(http, "alias support"), one(http, "promote support")
    assert (done.trace_id, done.parent_id, done.seconds) == (TRACE, SPAN, 0.5)
    assert done.attributes == {
        "softprompt.operation.name": "alias",
        "softprompt.name": "support",
        "softprompt.operation.subject": "production",
        "softprompt.operation.actor": "ada",
        "softprompt.version": "v2",
        "softprompt.operation.previous": "v1",
    }
    assert (failed.status, failed.attributes["error.type"]) == (2, "stale_generation")
    assert failed.parent_id == ""


def test_feedback_and_evaluations_are_told_below_the_answer(http: Receiver, tmp_path: Path) -> None:
    events = Events()
    tracing(tmp_path).listen_to(events)
    answer = answered(TraceRef(TRACE, SPAN))
    events.emit(Feedback(answer, "refund", 12.5))
    events.emit(Evaluation(answer, "faithful", passed=False, score=0.25))
    events.emit(Feedback(answered(None), "thumbs_up"))
    events.emit(Feedback(answered(TraceRef(TRACE, SPAN, sampled=False)), "thumbs_up"))
    given, judged = one(http, "softprompt.feedback"), one(http, "gen_ai.evaluation.result")
    assert (given.trace_id, given.parent_id) == (judged.trace_id, judged.parent_id) == (TRACE, SPAN)
    assert given.events["softprompt.feedback"] == {
        "softprompt.feedback.kind": "refund",
        "softprompt.feedback.value": 12.5,
    }
    assert judged.events["gen_ai.evaluation.result"] == {
        "gen_ai.evaluation.name": "faithful",
        "gen_ai.evaluation.score.label": "fail",
        "gen_ai.evaluation.score.value": 0.25,
    }
    assert len(http.received) == 2


def test_a_shadow_is_a_trace_of_its_own_that_points_at_the_users(
    http: Receiver, tmp_path: Path
) -> None:
    traced = tracing(tmp_path)
    shadow = traced.shadow("support", "v3", TraceRef(TRACE, SPAN))
    headers = shadow.headers()
    shadow.compared(matched=True)
    shadow.scored(0.5)
    shadow.end("done")
    found = one(http, "shadow support")
    assert found.trace_id != TRACE
    assert found.parent_id == ""
    assert found.links == [(TRACE, SPAN)]
    assert headers["traceparent"].startswith(f"00-{found.trace_id}-{found.span_id}-")
    assert found.attributes["softprompt.shadow"] is True
    assert found.attributes["softprompt.shadow.outcome"] == "done"
    assert found.attributes["softprompt.shadow.matched"] is True
    assert found.attributes["softprompt.shadow.divergence"] == 0.5


def test_a_dead_collector_is_counted_and_holds_up_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as held:  # bound, and nobody listens
        held.bind(("127.0.0.1", 0))
        monkeypatch.setenv(
            "OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{held.getsockname()[1]}"
        )
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "8")
        monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
        drops: Counter[str] = Counter()
        traced = tracing(tmp_path, drops)
        for _ in range(100):
            traced.begin({}, "POST", CHAT).end(event("v2", status=200), status=200)
        assert drops["queue_full"] >= 100 - 2 * 8
        deadline = time.monotonic() + 30
        while drops.total() < 100 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert drops.total() == 100
        assert drops["export_failed"] >= 8
        traced.close(5.0)


@pytest.mark.parametrize(
    ("environ", "on"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4317"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_the_standard_variables_switch_tracing(environ: dict[str, str], *, on: bool) -> None:
    assert otlp.wanted(environ) is on


@pytest.mark.parametrize(
    ("environ", "endpoint", "protocol"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}, "http://c:4317", "grpc"),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            },
            "http://c:4318/v1/traces",
            "http/protobuf",
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t/x",
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            },
            "http://t/x",
            "http/protobuf",
        ),
    ],
)
def test_vllm_sends_its_spans_to_the_same_place(
    environ: dict[str, str], endpoint: str, protocol: str
) -> None:
    flags, variables = otlp.vllm_tracing(environ)
    assert flags == ["--otlp-traces-endpoint", endpoint]
    assert variables == {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": protocol}
    assert otlp.vllm_tracing({}) == ([], {})


def test_a_protocol_that_is_unknown_refuses_the_start() -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_PROTOCOL": "carrier"}
    with pytest.raises(StartupRefused) as caught:
        otlp.vllm_tracing(environ)
    assert caught.value.code == "otlp_protocol_unsupported"


def test_the_docs_name_every_attribute_and_event() -> None:
    page = (Path(__file__).parents[2] / "docs" / "telemetry.md").read_text()
    told = set(re.findall(r"`([a-z_]+(?:\.[a-z_]+)+\.?)`", page))
    ours = {value for name, value in vars(span_names).items() if name.isupper()}
    assert ours <= told
    files = {name for name in told if name.endswith((".md", ".py"))}
    assert told - ours - files == {"package.module"} & told
