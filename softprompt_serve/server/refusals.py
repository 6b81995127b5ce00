"""How an error of ours is told: as a response of its own, or as the last words of a stream.

A stream has its status and headers before anything can fail, so its error is an event: of the shape
that the route's own protocol has for it, with what the response would have said.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from softprompt_serve.errors import SoftpromptError

_MESSAGES = "/v1/messages"
_RESPONSES = "/v1/responses"


def speaks_anthropic(path: str) -> bool:
    """Whether a route's errors have Anthropic's shape."""
    return path.startswith(_MESSAGES)


def error_response(error: SoftpromptError, *, anthropic: bool = False) -> JSONResponse:
    """``error`` in OpenAI's shape (or Anthropic's, on its own route), with ``Retry-After``."""
    body: dict[str, Any] = error.body()
    if anthropic:
        body = {"type": "error", "error": {"type": error.type, "message": error.message}}
    headers = {"x-softprompt-error": error.code}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    return JSONResponse(body, error.status, headers)


def last_events(error: SoftpromptError, path: str, sequence: int) -> bytes:
    """The server-sent events that end a stream of ``path`` with ``error``.

    All hold ``error`` with OpenAI's fields, by which OpenAI's and Anthropic's clients raise. Those of
    Responses are numbered; theirs has the fields beside each other, too, as its ``error`` event is
    documented.

    Args:
        error: why the stream ends.
        path: the route.
        sequence: how many events it has had.
    """
    body: dict[str, Any] = error.body()
    if speaks_anthropic(path):
        return _event({"type": "error", **body}, "error")
    if path == _RESPONSES:
        told = body["error"]
        flat = {name: told[name] for name in ("code", "message", "param")}
        return _event({"type": "error", "sequence_number": sequence, **flat, **body}, "error")
    return _event(body) + b"data: [DONE]\n\n"


def _event(data: dict[str, Any], name: str | None = None) -> bytes:
    named = "" if name is None else f"event: {name}\n"
    return f"{named}data: {json.dumps(data)}\n\n".encode()
