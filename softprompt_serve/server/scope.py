"""What one HTTP request carries from its first byte to its last: who answers, and the lease.

A pure ASGI middleware opens a :class:`RequestScope`, the render step fills it, every later step
reads it, and the middleware names the version in the response's headers and ends the lease.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from softprompt_serve.errors import SoftpromptError
    from softprompt_serve.router.choose import Decision
    from softprompt_serve.server.residency import Lease

COVERED = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"})
"""Routes on which a prompt's name is allowed; each is proven token for token."""

NAMES_ONLY = frozenset({"/tokenize", "/v1/models"})
"""Routes that may see a prompt's name but never answer with text."""

PIN_HEADER = "x-softprompt-version"


class RequestScope:
    """The mutable state of one request; its only writer is the request's own handler."""

    __slots__ = ("added", "decision", "error", "lease", "path", "pinned")

    def __init__(self, path: str = "", pinned: str | None = None) -> None:
        """Begin with nothing decided."""
        self.path = path
        self.pinned = pinned
        self.decision: Decision | None = None
        self.added = False  # whether the decided version has been added to what was rendered
        self.lease: Lease | None = None
        self.error: SoftpromptError | None = None

    @property
    def covered(self) -> bool:
        """Whether a soft prompt may answer on this route."""
        return self.path in COVERED

    def refuse(self, error: SoftpromptError) -> SoftpromptError:
        """Remember the error that must be the answer, whatever a handler makes of it."""
        self.error = error
        return error

    def close(self) -> None:
        """End the lease, once."""
        if self.lease is not None:
            self.lease.release()
            self.lease = None


_CURRENT: ContextVar[RequestScope | None] = ContextVar("softprompt_request", default=None)


def current() -> RequestScope:
    """The running request's scope; an empty one outside of any request."""
    return _CURRENT.get() or RequestScope()


def route_path(scope: Scope) -> str:
    """The path by which Starlette routes: without ``root_path``, where that is a whole part."""
    path: str = scope.get("path", "")
    root: str = scope.get("root_path", "")
    rest = path.removeprefix(root)
    return rest if not rest or rest.startswith("/") else path


class ScopeMiddleware:
    """ASGI: open a scope per request, name the version in headers, end the lease at the end."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap ``app``."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = RequestScope(route_path(scope), Headers(scope=scope).get(PIN_HEADER))
        answer = _Answer(state, scope, receive, send)
        token = _CURRENT.set(state)
        try:
            await self.app(scope, receive, answer.send)
        finally:
            _CURRENT.reset(token)
            state.close()


class _Answer:
    """Rewrites the response's start: our headers, or our error instead of the handler's."""

    def __init__(self, state: RequestScope, scope: Scope, receive: Receive, send: Send) -> None:
        self.state = state
        self.scope = scope
        self.receive = receive
        self._send = send
        self.replaced = False

    async def send(self, message: Message) -> None:
        """Forward ``message``, unless the request was refused before the response began."""
        if self.replaced:
            return
        if message["type"] == "http.response.start":
            if self.state.error is not None:
                self.replaced = True
                response = error_response(self.state.error, anthropic=self._is_anthropic)
                await response(self.scope, self.receive, self._send)
                return
            if self.state.decision is not None:
                MutableHeaders(scope=message).update(decision_headers(self.state.decision))
        await self._send(message)

    @property
    def _is_anthropic(self) -> bool:
        return self.state.path.startswith("/v1/messages")


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
        "x-softprompt-virtual-tokens": str(version.virtual_tokens),
    }


def error_response(error: SoftpromptError, *, anthropic: bool = False) -> JSONResponse:
    """``error`` in OpenAI's shape (or Anthropic's, on its own route), with ``Retry-After``."""
    body: dict[str, Any] = error.body()
    if anthropic:
        body = {"type": "error", "error": {"type": error.type, "message": error.message}}
    headers = {"x-softprompt-error": error.code}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    return JSONResponse(body, error.status, headers)
