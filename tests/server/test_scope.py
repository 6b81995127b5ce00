"""The middleware that opens a request's scope: headers, errors in place of answers, the lease."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from router.catalogues import version

from softprompt_serve.errors import BadRequest, SoftpromptError, Unavailable
from softprompt_serve.router.choose import Decision
from softprompt_serve.server.record import Record
from softprompt_serve.server.refusals import error_response
from softprompt_serve.server.residency import Lease
from softprompt_serve.server.scope import (
    RequestScope,
    ScopeMiddleware,
    current,
    route_path,
)
from softprompt_serve.telemetry.channel import Events
from softprompt_serve.telemetry.events import RequestEvent

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Message, Receive, Scope, Send


VERSION = version("v2")
DECISION = Decision(VERSION, "production", "production", 7)
CHAT = "/v1/chat/completions"
LOST = Unavailable("Lost.", code="softprompt_lost")


class Answer:
    """What a client gets from a handler behind the middleware."""

    def __init__(
        self,
        handle: Callable[[RequestScope], None],
        path: str = CHAT,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.sent: list[Message] = []
        self.scopes: list[RequestScope] = []
        self.leased_at_end = True

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            self.scopes.append(current())
            handle(current())
            start = [(b"content-type", b"text/event-stream")]
            await send({"type": "http.response.start", "status": 200, "headers": start})
            await send({"type": "http.response.body", "body": b"one", "more_body": True})
            await send({"type": "http.response.body", "body": b"two"})
            self.leased_at_end = current().lease is not None

        async def send(message: Message) -> None:
            self.sent.append(message)

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        raw = [(k.encode(), v.encode()) for k, v in (headers or {}).items()]
        scope: dict[str, Any] = {"type": "http", "method": "POST", "path": path, "headers": raw}
        asyncio.run(ScopeMiddleware(app)(scope, receive, send))

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {k.decode(): v.decode() for k, v in self.sent[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])


def decided(scope: RequestScope) -> None:
    scope.decision = DECISION


def refused(error: SoftpromptError) -> Callable[[RequestScope], None]:
    def refuse(scope: RequestScope) -> None:
        scope.refuse(error)

    return refuse


def test_an_answer_names_its_version_in_headers() -> None:
    headers = Answer(decided).headers
    assert {k: v for k, v in headers.items() if k.startswith("x-softprompt")} == {
        "x-softprompt-name": "support",
        "x-softprompt-version": "v2",
        "x-softprompt-kind": "soft",
        "x-softprompt-digest": VERSION.digest,
        "x-softprompt-arm": "production",
        "x-softprompt-reason": "production",
        "x-softprompt-generation": "7",
        "x-softprompt-cohort": "default",
        "x-softprompt-route": "default",
        "x-softprompt-virtual-tokens": "20",
    }


def test_a_streamed_answer_passes_chunk_by_chunk() -> None:
    answer = Answer(decided)
    assert [message.get("body") for message in answer.sent] == [None, b"one", b"two"]
    assert answer.headers["content-type"] == "text/event-stream"


def test_an_answer_of_the_base_model_names_nothing() -> None:
    answer = Answer(lambda _scope: None)
    assert not [name for name in answer.headers if name.startswith("x-softprompt")]


def test_a_refused_request_is_answered_with_the_error_whatever_the_handler_sends() -> None:
    answer = Answer(refused(BadRequest("No.", code="softprompt_text_only", param="messages")))
    assert answer.status == 400
    assert json.loads(answer.body) == {
        "error": {
            "message": "No.",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "softprompt_text_only",
        }
    }
    assert answer.headers["x-softprompt-error"] == "softprompt_text_only"


def test_a_refusal_that_may_pass_says_when_to_try_again() -> None:
    answer = Answer(refused(Unavailable("Later.", code="bank_full", retry_after=3)))
    assert (answer.status, answer.headers["retry-after"]) == (503, "3")


def test_a_refusal_that_will_not_pass_does_not() -> None:
    answer = Answer(refused(Unavailable("Never.", retry_after=None)))
    assert "retry-after" not in answer.headers


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_anthropics_routes_get_errors_in_anthropics_shape(path: str) -> None:
    answer = Answer(refused(BadRequest("No.")), path)
    assert json.loads(answer.body) == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "No."},
    }


class Stream:
    """What a client hears of a stream whose second event can't be made, and what is told of it."""

    def __init__(
        self,
        path: str = CHAT,
        *,
        raises: type[Exception] | None = None,
        kind: str = "text/event-stream; charset=utf-8",
        refusal: SoftpromptError | None = LOST,
    ) -> None:
        self.sent: list[Message] = []
        self.told: list[RequestEvent] = []
        events = Events()
        events.listen(RequestEvent, self.told.append)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            decided(current())
            start = [(b"content-type", kind.encode())]
            await send({"type": "http.response.start", "status": 200, "headers": start})
            await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
            if refusal is not None:
                current().refuse(refusal)
            if raises is not None:
                raise raises
            await send({"type": "http.response.body", "body": b"theirs", "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        async def send(message: Message) -> None:
            self.sent.append(message)

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        scope = {"type": "http", "method": "POST", "path": path, "headers": []}
        asyncio.run(ScopeMiddleware(app, lambda: events)(scope, receive, send))

    @property
    def bodies(self) -> list[bytes]:
        return [message["body"] for message in self.sent[1:]]

    @property
    def data(self) -> dict[str, Any]:
        """Of the last words."""
        line = next(line for line in self.bodies[-1].splitlines() if line.startswith(b"data:"))
        return dict(json.loads(line.removeprefix(b"data:")))


TOLD = {"message": "Lost.", "type": "server_error", "param": None, "code": "softprompt_lost"}


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_an_error_within_a_stream_is_told_in_openais_shape_and_ends_it(path: str) -> None:
    stream = Stream(path)
    assert stream.bodies[0] == b"data: 1\n\n"
    assert stream.data == {"error": TOLD}
    assert stream.bodies[-1].endswith(b"\n\ndata: [DONE]\n\n")
    assert [message.get("more_body") for message in stream.sent[1:]] == [True, False]


@pytest.mark.parametrize("raises", [None, RuntimeError])
def test_an_error_within_a_response_is_its_next_event(raises: type[Exception] | None) -> None:
    stream = Stream("/v1/responses", raises=raises)
    assert stream.bodies[-1].startswith(b"event: error\ndata: ")
    fields = {"code": "softprompt_lost", "message": "Lost.", "param": None}
    assert stream.data == {"type": "error", "sequence_number": 1, **fields, "error": TOLD}


def test_an_error_within_a_message_has_anthropics_shape_and_our_code() -> None:
    stream = Stream("/v1/messages")
    assert stream.bodies[-1].startswith(b"event: error\ndata: ")
    assert stream.data == {"type": "error", "error": TOLD}


def test_a_stream_that_ended_in_an_error_counts_as_the_error() -> None:
    (event,) = Stream().told
    assert (event.status, event.error, event.failed) == (503, "softprompt_lost", True)


def test_an_error_that_is_none_of_ours_breaks_the_stream() -> None:
    with pytest.raises(RuntimeError):
        Stream(raises=RuntimeError, refusal=None)


def test_what_is_no_stream_is_left_alone_after_its_first_byte() -> None:
    assert Stream(kind="application/json").bodies == [b"data: 1\n\n", b"theirs", b""]


def test_the_lease_lasts_until_the_last_byte_and_ends_once() -> None:
    released: list[str] = []

    def lease(scope: RequestScope) -> None:
        scope.lease = Lease("d", released.append)

    answer = Answer(lease)
    assert answer.leased_at_end
    assert released == ["d"]
    assert answer.scopes[0].lease is None


def test_the_lease_ends_when_the_handler_fails() -> None:
    released: list[str] = []

    def fail(scope: RequestScope) -> None:
        scope.lease = Lease("d", released.append)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        Answer(fail)
    assert released == ["d"]


def test_a_lease_that_is_released_twice_ends_once() -> None:
    released: list[str] = []
    lease = Lease("d", released.append)
    lease.release()
    lease.release()
    assert released == ["d"]


def test_the_pin_header_is_read() -> None:
    answer = Answer(lambda _scope: None, headers={"x-softprompt-version": "v3"})
    assert answer.scopes[0].pinned == "v3"


def test_requests_do_not_share_a_scope() -> None:
    first, second = Answer(decided), Answer(lambda _scope: None)
    assert second.scopes[0].decision is None
    assert first.scopes[0] is not second.scopes[0]


def test_outside_of_a_request_nothing_is_decided_or_remembered() -> None:
    current().decision = DECISION
    assert current().decision is None
    assert not current().covered


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/responses", "/v1/messages"])
def test_proven_routes_are_covered(path: str) -> None:
    assert RequestScope(path).covered


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions/batch",
        "/v1/messages/count_tokens",
        "/inference/v1/generate",
        "/pooling",
    ],
)
def test_other_routes_are_not(path: str) -> None:
    assert not RequestScope(path).covered


@pytest.mark.parametrize(
    ("path", "root", "expected"),
    [
        ("/v1/models", "", "/v1/models"),
        ("/api/v1/models", "/api", "/v1/models"),
        ("/v1/models", "/api", "/v1/models"),
        ("/v1/models", "/v", "/v1/models"),
        ("/api", "/api", ""),
    ],
)
def test_a_root_path_is_taken_off_as_the_router_does_it(
    path: str, root: str, expected: str
) -> None:
    from starlette._utils import get_route_path  # noqa: PLC0415 - what it must equal

    scope = {"path": path, "root_path": root}
    assert route_path(scope) == get_route_path(scope) == expected


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (401, "authentication_error"), (404, "not_found_error")],
)
def test_error_types_are_openais(status: int, kind: str) -> None:
    class Error(SoftpromptError):
        pass

    Error.status = status
    assert json.loads(bytes(error_response(Error("x")).body))["error"]["type"] == kind


class Heard:
    """What listeners hear of one request behind the middleware."""

    def __init__(self, handle: Callable[[RequestScope], None], *, leaves: str = "") -> None:
        self.events: list[RequestEvent] = []
        events = Events()
        events.listen(RequestEvent, self.events.append)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            handle(current())
            await send({"type": "http.response.start", "status": 200, "headers": []})
            if leaves == "silently":
                await receive()
            if leaves == "cancelled":
                raise asyncio.CancelledError
            await send({"type": "http.response.body", "body": b"all"})

        async def send(_message: Message) -> None:
            pass

        async def receive() -> Message:
            return {"type": "http.disconnect"}

        scope: dict[str, Any] = {"type": "http", "method": "POST", "path": CHAT, "headers": []}
        with suppress(asyncio.CancelledError):
            asyncio.run(ScopeMiddleware(app, lambda: events)(scope, receive, send))


def test_a_finished_request_is_one_event() -> None:
    (event,) = Heard(decided).events
    assert event.decision is DECISION
    assert (event.status, event.error, event.failed) == (200, None, False)
    assert event.e2e_seconds >= 0.0


def test_a_request_for_no_prompt_is_no_event() -> None:
    assert Heard(lambda _: None).events == []


def test_a_refused_request_says_why_in_its_event() -> None:
    def refuse(scope: RequestScope) -> None:
        decided(scope)
        scope.refuse(Unavailable("Lost.", code="softprompt_lost"))

    (event,) = Heard(refuse).events
    assert (event.status, event.error, event.failed) == (503, "softprompt_lost", True)


@pytest.mark.parametrize("how", ["silently", "cancelled"])
def test_a_client_that_went_away_is_nobodys_failure(how: str) -> None:
    (event,) = Heard(decided, leaves=how).events
    assert event.status == 499
    assert not event.failed


def test_a_listener_that_fails_hinders_nobody(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[RequestEvent] = []

    def broken(_event: RequestEvent) -> None:
        raise RuntimeError

    events = Events()
    events.listen(RequestEvent, broken)
    events.listen(RequestEvent, heard.append)
    events.emit(Record().event(DECISION, 200, None))
    assert len(heard) == 1
    assert "A listener of RequestEvent failed." in caplog.text


def test_an_answer_that_the_engine_ended_with_an_error_has_failed() -> None:
    record = Record()
    record.finish_reasons.append("error")
    event = record.event(DECISION, 200, None)
    assert event.failed
    assert event.error == "engine_error"


def test_tokens_are_counted_over_all_inputs_of_a_request() -> None:
    record = Record()
    for prompt, cached, generated in ((25, 20, 3), (30, 0, 4)):
        record.entered("r", prompt, 20)
        record.left(SimpleNamespace(num_cached_tokens=cached, metrics=None), generated)
    event = record.event(DECISION, 200, None)
    assert (event.visible_tokens, event.virtual_tokens) == (15, 40)
    assert (event.cached_tokens, event.output_tokens) == (20, 7)


def test_the_first_token_of_an_answer_in_one_piece_is_when_the_engine_had_it() -> None:
    record = Record()
    stats = SimpleNamespace(arrival_time=record.started_at + 0.5, first_token_latency=0.25)
    time_passed = record._started - 10.0  # ten seconds ago
    record._started = time_passed
    choice = SimpleNamespace(finish_reason="stop", token_ids=[1])
    record.saw(SimpleNamespace(outputs=[choice], metrics=stats, finished=True))
    ttft, e2e = record.latency()
    assert ttft == pytest.approx(0.75)
    assert e2e >= 10.0
