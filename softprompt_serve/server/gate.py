"""ASGI gate before the admin API: who may call what, how often, and that the body is whole.

It stands before FastAPI reads the body, so neither a stranger nor a large upload costs memory.
What a call takes is in one table, ``access/endpoints.py``; a call that is not there is refused.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection  # noqa: TC002 - FastAPI reads it

from softprompt_serve.access import endpoints
from softprompt_serve.access.pace import Pace
from softprompt_serve.access.scopes import Grant
from softprompt_serve.errors import (
    BadRequest,
    MethodNotAllowed,
    SoftpromptError,
    TooLarge,
    Unauthorized,
)
from softprompt_serve.server.auth import presented
from softprompt_serve.server.door import check_pace
from softprompt_serve.server.refusals import error_response
from softprompt_serve.server.scope import route_path
from softprompt_serve.telemetry.operations import PARENT

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from softprompt_serve.access.endpoints import Endpoint
    from softprompt_serve.server.door import Door

PREFIX = "/softprompts/v1"
FEEDBACK_BYTES = 65_536
# What may stand behind the last boundary of a multipart body; RFC 2046 bounds it nowhere.
_EPILOGUE_BYTES = 1024

_GRANT: Final = "softprompt_grant"
_MOST_DIGITS: Final = 18
"""Of a declared length; Python refuses to read numbers of thousands of digits."""


class AdminGate:
    """Checks token, scope and pace, and bounds the body, of calls under :data:`PREFIX`."""

    def __init__(
        self, app: ASGIApp, door: Door, max_bytes: int, changes: Pace | None = None
    ) -> None:
        """Guard ``app``; ``max_bytes`` is per body, ``changes`` per token."""
        self.app = app
        self.door = door
        self.max_bytes = max_bytes
        self.changes = changes or Pace(None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on, or refuse it; what it changes is traced below its caller."""
        path = route_path(scope)
        below = path.removeprefix(PREFIX)
        is_open = below in endpoints.OPEN and scope.get("method") == endpoints.READ
        if scope["type"] != "http" or not path.startswith(PREFIX) or is_open:
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        most = FEEDBACK_BYTES if below in endpoints.SMALL else self.max_bytes
        try:
            grant = self._admit(headers, scope)
            endpoint, prompt = endpoints.find(scope["method"], below)
            endpoint.check(grant, prompt)
            self._slow_down(endpoint, grant)
            _check_length(headers.get("content-length"), most)
        except SoftpromptError as error:
            answer = error_response(error)
            if isinstance(error, MethodNotAllowed):
                answer.headers["allow"] = ", ".join(error.allow)
            await answer(scope, receive, send)
            return
        token = PARENT.set(headers.get("traceparent"))
        try:
            body = _whole(_counted(receive, most), headers.get("content-type", ""))
            await self.app({**scope, _GRANT: grant}, body, send)
        finally:
            PARENT.reset(token)

    def _admit(self, headers: Headers, scope: Scope) -> Grant:
        """Who calls.

        Raises:
            Unauthorized: ``missing_admin_token`` or ``invalid_admin_token``.
            TooMany: see :meth:`~softprompt_serve.server.door.Door.admit`.
        """
        if not (given := presented(headers.get("authorization"))):
            msg = "Admin calls need `Authorization: Bearer TOKEN` (SOFTPROMPT_ADMIN_TOKEN)."
            raise Unauthorized(msg, code="missing_admin_token")
        if (grant := self.door.admit(given, scope)) is None:
            msg = "This is no token of this server, or one that has expired or was revoked."
            raise Unauthorized(msg, code="invalid_admin_token")
        return grant

    def _slow_down(self, endpoint: Endpoint, grant: Grant) -> None:
        if endpoint.change and endpoint.method != endpoints.READ:
            check_pace(self.changes.take(grant.id, time.monotonic()), "changes")


def grant_of(connection: HTTPConnection) -> Grant:
    """What the caller of an admin call may do.

    Raises:
        KeyError: the call did not come through the gate.
    """
    found = connection.scope[_GRANT]
    assert isinstance(found, Grant)  # noqa: S101 - the gate's own
    return found


def _check_length(declared: str | None, most: int) -> None:
    if declared is None or not declared.isdecimal():
        return
    if len(declared) > _MOST_DIGITS or int(declared) > most:
        raise _too_large(most)


def _counted(receive: Receive, most: int) -> Receive:
    received = 0

    async def counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > most:
            raise _too_large(most)
        return message

    return counted


def _whole(receive: Receive, content_type: str) -> Receive:
    """Refuse a multipart body that breaks off: its parser would leave the last part out.

    So a prompt would be imported without its record, or without its tensor, and never change.
    """
    kind, options = parse_options_header(content_type)
    if not kind.startswith(b"multipart/") or b"boundary" not in options:
        return receive
    end = b"--" + options[b"boundary"] + b"--"
    most = len(end) + _EPILOGUE_BYTES
    tail = b""

    async def whole() -> Message:
        nonlocal tail
        message = await receive()
        tail = (tail + message.get("body", b"")[-most:])[-most:]
        if message["type"] == "http.request" and not message.get("more_body") and end not in tail:
            msg = "The body breaks off before its closing boundary; nothing was taken."
            raise BadRequest(msg, code="invalid_body")
        return message

    return whole


def _too_large(most: int) -> TooLarge:
    msg = f"The body is larger than {most} bytes"
    if most != FEEDBACK_BYTES:
        msg += "; SOFTPROMPT_MAX_UPLOAD_BYTES raises the limit"
    return TooLarge(f"{msg}.")
