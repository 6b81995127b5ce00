"""What one HTTP request carries from its first byte to its last: who answers, and the lease.

A pure ASGI middleware opens a :class:`RequestScope`, the render step fills it, every later step
reads it, and the middleware names the version in the response's headers and ends the lease.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers

from softprompt_serve.server.record import CLIENT_CLOSED, Record
from softprompt_serve.server.refusals import error_response, last_events, speaks_anthropic
from softprompt_serve.telemetry.events import Refusal, RequestEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from softprompt_serve.access.scopes import Grant
    from softprompt_serve.errors import SoftpromptError
    from softprompt_serve.router.choose import Decision
    from softprompt_serve.server.residency import Lease
    from softprompt_serve.telemetry.channel import Events
    from softprompt_serve.telemetry.tracing import RequestSpan, Tracing

COVERED = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"})
"""Routes on which a prompt's name is allowed; each is proven token for token."""

NAMES_ONLY = frozenset({"/tokenize", "/v1/models"})
"""Routes that may see a prompt's name but never answer with text."""

PIN_HEADER = "x-softprompt-version"
COHORT_HEADER = "x-softprompt-cohort"
ROUTE_HEADER = "x-softprompt-route"
STICKY_HEADER = "x-softprompt-sticky-key"
TRACE_HEADER = "x-softprompt-trace-id"
"""Names the trace in the answer, if it is recorded."""


class RequestScope:
    """The mutable state of one request; its only writer is the request's own handler."""

    __slots__ = (
        "added",
        "caller",
        "copy",
        "decision",
        "error",
        "headers",
        "lease",
        "path",
        "prompt",
        "record",
        "salt",
        "span",
        "user",
    )

    def __init__(self, path: str = "", headers: Headers | None = None) -> None:
        """Begin with nothing decided."""
        self.path = path
        self.headers = headers or Headers()
        self.record = Record()
        self.caller: Grant | None = None  # who asks, where callers are asked for a token
        self.salt: str | None = None  # of its tenant, once that was worked out
        self.prompt: str | None = None  # the name that was asked for, if it is a prompt's
        self.user: str | None = None  # who asks, where the body's field is lost on the way
        self.copy: Any = None  # what a shadow of it needs, if it was sampled for one
        self.decision: Decision | None = None
        self.added = False  # whether the decided version has been added to what was rendered
        self.lease: Lease | None = None
        self.error: SoftpromptError | None = None
        self.span: RequestSpan | None = None  # while tracing is on

    @property
    def pinned(self) -> str | None:
        """The selector that the client's header pins, or None."""
        return self.headers.get(PIN_HEADER)

    @property
    def covered(self) -> bool:
        """Whether a soft prompt may answer on this route."""
        return self.path in COVERED

    def refuse(self, error: SoftpromptError) -> SoftpromptError:
        """Remember the error that must be the answer, whatever a handler makes of it."""
        self.error = error
        return error

    def log_fields(self) -> dict[str, str | None]:
        """What a line in the log says of the request: ids and bounded labels, nothing it holds."""
        trace = None if self.span is None else self.span.ref
        decision = self.decision
        return {
            "request_id": self.record.request_id or None,  # known once it enters the engine
            "trace_id": None if trace is None else trace.trace_id,
            "span_id": None if trace is None else trace.span_id,
            "prompt": self.prompt if decision is None else decision.version.prompt,
            "version": None if decision is None else decision.version.version,
            "arm": None if decision is None else decision.arm,
            "cohort": None if decision is None else decision.cohort,
            "route": None if decision is None else decision.route,
        }

    def close(self) -> None:
        """End the lease, once."""
        if self.lease is not None:
            self.lease.release()
            self.lease = None


_CURRENT: ContextVar[RequestScope | None] = ContextVar("softprompt_request", default=None)


def current() -> RequestScope:
    """The running request's scope; an empty one outside of any request."""
    return _CURRENT.get() or RequestScope()


def log_fields() -> dict[str, str | None]:
    """The running request's :meth:`RequestScope.log_fields`; none outside of any request."""
    state = _CURRENT.get()
    return {} if state is None else state.log_fields()


def route_path(scope: Scope) -> str:
    """The path by which Starlette routes: without ``root_path``, where that is a whole part."""
    path: str = scope.get("path", "")
    root: str = scope.get("root_path", "")
    rest = path.removeprefix(root)
    return rest if not rest or rest.startswith("/") else path


def within(scope: Scope, headers: Mapping[str, str]) -> Scope:
    """The same call with other trace headers, if there are any, so that what follows is a child."""
    if not headers:
        return scope
    ours = [(name.encode(), value.encode()) for name, value in headers.items()]
    named = {b"traceparent", b"tracestate"}
    rest = [(name, value) for name, value in scope["headers"] if name.lower() not in named]
    return {**scope, "headers": rest + ours}


class ScopeMiddleware:
    """ASGI: open a scope per request, name the version in headers, end lease and span at the end."""

    def __init__(
        self,
        app: ASGIApp,
        events: Callable[[], Events | None] = lambda: None,
        tracing: Callable[[], Tracing | None] = lambda: None,
    ) -> None:
        """Wrap ``app``; who listens is asked for at each request's end, who traces at its start."""
        self.app = app
        self.events = events
        self.tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = RequestScope(route_path(scope), Headers(scope=scope))
        tracing = self.tracing()
        if tracing is not None and state.covered:
            state.span = tracing.begin(state.headers, scope["method"], state.path)
            scope = within(scope, state.span.headers())
        answer = _Answer(state, scope, receive, send)
        token = _CURRENT.set(state)
        try:
            await self.app(scope, answer.receive, answer.send)
        except Exception:  # whatever a handler makes of an error of ours within its stream
            if not await answer.break_off():
                raise
        finally:
            state.close()
            try:
                self._tell(state, answer)  # as part of the request, for what is logged of it
            finally:
                _CURRENT.reset(token)

    def _tell(self, state: RequestScope, answer: _Answer) -> None:
        events, span = self.events(), state.span
        code = None if state.error is None else state.error.code
        event: RequestEvent | None = None
        if state.decision is not None:
            trace = None if span is None else span.ref
            event = state.record.event(
                state.decision, answer.status, code, path=state.path, trace=trace
            )
        if span is not None:
            span.end(event, status=answer.status, prompt=state.prompt, error=code)
        if events is None:
            return
        if event is not None:
            events.emit(event)
        elif state.prompt is not None and code is not None:
            events.emit(Refusal(state.prompt, code))


class _Answer:
    """Rewrites what is sent: our headers, and our error instead of what a handler makes of it."""

    def __init__(self, state: RequestScope, scope: Scope, receive: Receive, send: Send) -> None:
        self.state = state
        self.scope = scope
        self._receive = receive
        self._send = send
        self._gone = False
        self.replaced = False
        self.status = CLIENT_CLOSED  # until the last byte has been sent
        self._begun = CLIENT_CLOSED
        self._streams = False
        self._events = 0

    async def receive(self) -> Message:
        """Hand on what the client sends, and notice when it goes away."""
        message = await self._receive()
        self._gone = self._gone or message["type"] == "http.disconnect"
        return message

    async def send(self, message: Message) -> None:
        """Forward ``message``, unless the request was refused meanwhile."""
        if self.replaced:
            return
        if message["type"] == "http.response.start":
            if self.state.error is not None:
                await self._refuse(self.state.error)
                return
            self._begin(message)
        elif await self.break_off():
            return
        await self._send(message)
        self._events += message["type"] == "http.response.body"
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if last and not self._gone:
            self.status = self._begun

    async def break_off(self) -> bool:
        """End a stream that has begun with the request's error; False if there is none to tell."""
        error = self.state.error
        if error is None or not self._streams or self.status != CLIENT_CLOSED:
            return False
        self.replaced = True
        body = last_events(error, self.state.path, self._events)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})
        if not self._gone:
            self.status = error.status
        return True

    async def _refuse(self, error: SoftpromptError) -> None:
        self.replaced = True
        self.status = error.status
        response = error_response(error, anthropic=speaks_anthropic(self.state.path))
        response.headers.update(self._trace())
        await response(self.scope, self._receive, self._send)

    def _begin(self, message: Message) -> None:
        self._begun = message["status"]
        sent = list(message.get("headers", ()))
        self._streams = any(
            name == b"content-type" and value.startswith(b"text/event-stream")
            for name, value in sent
        )
        ours = self._trace()
        if self.state.decision is not None:
            ours = decision_headers(self.state.decision) | ours
        # Nobody else sets them, so there is none to look for and replace.
        message["headers"] = [*sent, *_encoded(ours)]

    def _trace(self) -> dict[str, str]:
        span = self.state.span
        return {TRACE_HEADER: span.ref.trace_id} if span is not None and span.ref.sampled else {}


def _encoded(headers: Mapping[str, str]) -> Iterator[tuple[bytes, bytes]]:
    for name, value in headers.items():
        yield name.encode("latin-1"), value.encode("latin-1")


def decision_headers(decision: Decision) -> dict[str, str]:
    """The ``x-softprompt-*`` response headers."""
    version = decision.version
    return {
        "x-softprompt-name": version.prompt,
        "x-softprompt-version": version.version,
        "x-softprompt-kind": version.kind,
        "x-softprompt-digest": version.digest,
        "x-softprompt-arm": decision.arm,
        "x-softprompt-reason": decision.reason,
        "x-softprompt-generation": str(decision.generation),
        "x-softprompt-cohort": decision.cohort,
        "x-softprompt-route": decision.route,
        "x-softprompt-virtual-tokens": str(version.virtual_tokens),
    }
