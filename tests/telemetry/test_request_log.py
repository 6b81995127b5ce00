"""One line for each request: what it has, and what it never has."""

from __future__ import annotations

import dataclasses
import json
import logging
from typing import Any

import pytest
from router.catalogues import version

from softprompt_serve.router.choose import Decision
from softprompt_serve.telemetry import request_log
from softprompt_serve.telemetry.channel import Events
from softprompt_serve.telemetry.events import Refusal, RequestEvent, TraceRef
from softprompt_serve.telemetry.lines import Line

EVENT = RequestEvent(
    request_id="cmpl-1-0",
    decision=Decision(version("v2"), "split", "v2", 7, cohort="regulated", route="planner"),
    status=200,
    error=None,
    started_at=1.0,
    ttft_seconds=0.12345678,
    e2e_seconds=1.5,
    visible_tokens=12,
    virtual_tokens=20,
    cached_tokens=16,
    output_tokens=5,
    finish_reasons=("stop",),
    response_id="cmpl-1",
    queue_seconds=0.01,
    trace=TraceRef("a" * 32, "b" * 16),
    path="/v1/completions",
)


def told(caplog: pytest.LogCaptureFixture, event: object, level: int = logging.INFO) -> list[Line]:
    events = Events()
    request_log.listen_to(events)
    with caplog.at_level(level, request_log.__name__):
        events.emit(event)
    return [record.msg for record in caplog.records if isinstance(record.msg, Line)]


def test_a_finished_request_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    (line,) = told(caplog, EVENT)
    assert line.said == "request ended"
    assert line.known() == {
        "request_id": "cmpl-1-0",
        "trace_id": "a" * 32,
        "span_id": "b" * 16,
        "prompt": "support",
        "version": "v2",
        "arm": "v2",
        "cohort": "regulated",
        "route": "planner",
        "response_id": "cmpl-1",
        "digest": "v2v2v2v2v2v2",
        "reason": "split",
        "generation": 7,
        "path": "/v1/completions",
        "status": 200,
        "e2e_seconds": 1.5,
        "ttft_seconds": 0.123457,
        "queue_seconds": 0.01,
        "visible_tokens": 12,
        "virtual_tokens": 20,
        "cached_tokens": 16,
        "output_tokens": 5,
        "finish_reasons": ("stop",),
    }


def test_a_request_that_failed_says_why(caplog: pytest.LogCaptureFixture) -> None:
    failed = dataclasses.replace(EVENT, status=503, error="softprompt_lost", trace=None)
    (line,) = told(caplog, failed)
    assert (line.known()["status"], line.known()["error"]) == (503, "softprompt_lost")
    assert "trace_id" not in line.known()


def test_a_refusal_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    (line,) = told(caplog, Refusal("support", "arm_not_resident"))
    assert str(line) == "request refused prompt=support error=arm_not_resident"


def test_a_level_above_info_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    assert told(caplog, EVENT, logging.WARNING) == []
    assert told(caplog, Refusal("support", "x"), logging.WARNING) == []


def test_the_text_of_a_hard_version_is_not_in_the_line(caplog: pytest.LogCaptureFixture) -> None:
    text: Any = dataclasses.replace(version("v1"), kind="hard", text="Answer with one word.")
    hard = dataclasses.replace(EVENT, decision=Decision(text, "production", "production", 0))
    (line,) = told(caplog, hard)
    assert "Answer with" not in str(line)
    assert "Answer with" not in json.dumps(line.known())
