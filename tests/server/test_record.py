"""What is noted of one request as its outputs pass."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from router.catalogues import version

from softprompt_serve.router.choose import Decision
from softprompt_serve.server.record import Record

DECISION = Decision(version("v2"), "production", "production", 7)


def last(queued: float, scheduled: float, first: float) -> Any:
    """A last output with the engine core's times."""
    stats = SimpleNamespace(queued_ts=queued, scheduled_ts=scheduled, first_token_ts=first)
    return SimpleNamespace(metrics=stats, num_cached_tokens=0)


def test_the_slowest_input_of_a_batch_says_how_long_queue_and_prefill_took() -> None:
    record = Record()
    record.left(last(10.0, 10.5, 10.7), 3)
    record.left(last(10.0, 12.0, 12.1), 3)
    event = record.event(DECISION, 200, None)
    assert event.queue_seconds == pytest.approx(2.0)
    assert event.prefill_seconds == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("times", "queue", "prefill"),
    [((0.0, 0.0, 0.0), None, None), ((4.0, 0.0, 0.0), None, None), ((4.0, 5.0, 0.0), 1.0, None)],
)
def test_what_never_happened_took_no_time_at_all(
    times: tuple[float, float, float], queue: float | None, prefill: float | None
) -> None:
    record = Record()
    record.left(last(*times), 0)
    event = record.event(DECISION, 200, None)
    assert (event.queue_seconds, event.prefill_seconds) == (queue, prefill)


def test_an_engine_that_keeps_no_times_tells_none() -> None:
    record = Record()
    record.left(SimpleNamespace(metrics=None, num_cached_tokens=5), 1)
    event = record.event(DECISION, 200, None)
    assert (event.queue_seconds, event.prefill_seconds, event.cached_tokens) == (None, None, 5)


def test_a_wait_for_the_version_is_noted_also_if_it_was_in_vain() -> None:
    record = Record()
    assert record.event(DECISION, 200, None).lease_wait_seconds is None
    with pytest.raises(KeyError), record.waiting():
        raise KeyError
    once = record.event(DECISION, 200, None).lease_wait_seconds
    assert once is not None
    with record.waiting():
        pass
    twice = record.event(DECISION, 200, None).lease_wait_seconds
    assert twice is not None
    assert twice > once > 0


@pytest.mark.parametrize(
    ("path", "request_id", "response_id", "operation"),
    [
        ("/v1/chat/completions", "chatcmpl-a-b", "chatcmpl-a-b", "chat"),
        ("/v1/completions", "cmpl-a-b-0", "cmpl-a-b", "text_completion"),
        ("/v1/responses", "resp_a_0", "resp_a", "chat"),
        ("/v1/chat/completions", "", "", "chat"),
        ("/v1/completions", "", "", "text_completion"),
    ],
)
def test_an_event_holds_the_id_that_the_client_reads(
    path: str, request_id: str, response_id: str, operation: str
) -> None:
    record = Record()
    record.entered(request_id, 10, 2)
    event = record.event(DECISION, 200, None, path=path)
    assert (event.response_id, event.operation, event.path) == (response_id, operation, path)
