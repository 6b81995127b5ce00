"""Which request a line in the log belongs to: the fields of the one that is running."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from router.catalogues import version
from starlette.types import Message, Receive, Scope, Send

from softprompt_serve.errors import NotFound
from softprompt_serve.router.choose import Decision
from softprompt_serve.server.scope import TRACE_HEADER, ScopeMiddleware, current, log_fields
from softprompt_serve.telemetry import request_log
from softprompt_serve.telemetry.channel import Events
from softprompt_serve.telemetry.logs import JsonLines
from softprompt_serve.telemetry.spans import Describer
from softprompt_serve.telemetry.tracing import Tracing

CHAT = "/v1/chat/completions"
Handle = Callable[[], None]


class Served:
    """Requests behind the middleware, and the lines that were logged meanwhile."""

    def __init__(self, *handlers: Handle, traced: bool = False) -> None:
        stream = io.StringIO()
        self.handler = logging.StreamHandler(stream)
        self.handler.setFormatter(JsonLines(context=log_fields))
        self.traces: list[str] = []
        tracing = Tracing(TracerProvider(), Describer("base")) if traced else None
        events = Events()
        request_log.listen_to(events)
        asyncio.run(self._serve(handlers, events, tracing))
        self.lines = [json.loads(line) for line in stream.getvalue().splitlines()]

    async def _serve(
        self, handlers: tuple[Handle, ...], events: Events, tracing: Tracing | None
    ) -> None:
        together = asyncio.Barrier(len(handlers))

        def app(handle: Handle) -> Any:
            async def app(scope: Scope, receive: Receive, send: Send) -> None:
                handle()
                await together.wait()  # all are under way
                self.say("answering")
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b""})

            return ScopeMiddleware(app, lambda: events, lambda: tracing)

        async def send(message: Message) -> None:
            for name, value in message.get("headers", ()):
                if name.decode() == TRACE_HEADER:
                    self.traces.append(value.decode())

        async def receive() -> Message:
            return {"type": "http.request"}

        scope: dict[str, Any] = {"type": "http", "method": "POST", "path": CHAT, "headers": []}
        logger, level = request_log.logger, request_log.logger.level
        logger.addHandler(self.handler)
        logger.setLevel(logging.INFO)
        try:
            await asyncio.gather(*(app(handle)(scope, receive, send) for handle in handlers))
        finally:
            logger.removeHandler(self.handler)
            logger.setLevel(level)

    def say(self, message: str) -> None:
        self.handler.handle(logging.makeLogRecord({"msg": message}))

    def where(self, message: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["message"] == message]


def choose(name: str) -> Handle:
    def handle() -> None:
        state = current()
        state.decision = Decision(version(name), "split", name, 3, cohort="regulated", route="plan")
        state.record.entered(f"chatcmpl-{name}", 25, 20)

    return handle


def refuse() -> None:
    state = current()
    state.prompt = "support"
    state.refuse(NotFound("No such version.", code="version_not_found"))


def test_a_line_within_a_request_says_whose_it_is() -> None:
    (line,) = Served(choose("v2")).where("answering")
    assert {name: line[name] for name in list(line)[6:]} == {
        "request_id": "chatcmpl-v2",
        "prompt": "support",
        "version": "v2",
        "arm": "v2",
        "cohort": "regulated",
        "route": "plan",
    }


def test_requests_in_flight_at_once_keep_their_own() -> None:
    lines = Served(choose("v2"), choose("v3")).where("answering")
    found = {(line["request_id"], line["version"]) for line in lines}
    assert found == {("chatcmpl-v2", "v2"), ("chatcmpl-v3", "v3")}


def test_the_trace_is_the_one_that_the_answer_names() -> None:
    served = Served(choose("v2"), traced=True)
    (line,), (ended,) = served.where("answering"), served.where("request ended")
    assert served.traces == [line["trace_id"]] == [ended["trace_id"]]
    assert line["span_id"] == ended["span_id"]


def test_a_request_that_was_refused_has_its_trace_and_its_reason() -> None:
    (line,) = Served(refuse, traced=True).where("request refused")
    assert (line["prompt"], line["error"]) == ("support", "version_not_found")
    assert len(line["trace_id"]) == 32
    assert "version" not in line


def test_outside_of_any_request_there_are_none() -> None:
    Served(choose("v2"))
    assert log_fields() == {}


@pytest.mark.parametrize("traced", [False, True])
def test_before_anything_is_known_only_the_trace_is(traced: bool) -> None:
    (line,) = Served(lambda: None, traced=traced).where("answering")
    assert set(list(line)[6:]) == ({"trace_id", "span_id"} if traced else set())
