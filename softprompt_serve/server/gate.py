"""ASGI gate before the admin API: who may call, how much a body may hold, and that it is whole.

It stands before FastAPI reads the body, so neither a stranger nor a large upload costs memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers

from softprompt_serve.errors import BadRequest, Forbidden, SoftpromptError, TooLarge
from softprompt_serve.server.auth import check_bearer
from softprompt_serve.server.scope import error_response, route_path
from softprompt_serve.telemetry.operations import PARENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import SecretStr
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PREFIX = "/softprompts/v1"
OPEN = frozenset({f"{PREFIX}/healthz", f"{PREFIX}/readyz"})
FEEDBACK = frozenset({f"{PREFIX}/feedback", f"{PREFIX}/evaluations"})
"""All that an application's own token is for."""

FEEDBACK_BYTES = 65_536
# What may stand behind the last boundary of a multipart body; RFC 2046 bounds it nowhere.
_EPILOGUE_BYTES = 1024


class AdminGate:
    """Checks the bearer token and bounds the body of calls under :data:`PREFIX`."""

    def __init__(
        self,
        app: ASGIApp,
        token: Callable[[], str],
        max_bytes: int,
        feedback_token: SecretStr | None = None,
    ) -> None:
        """Guard ``app``; ``token`` is asked for on each call, ``max_bytes`` is per body."""
        self.app = app
        self.token = token
        self.max_bytes = max_bytes
        self.feedback_token = None if feedback_token is None else feedback_token.get_secret_value()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on, or refuse it; what it changes is traced below its caller."""
        path = route_path(scope)
        if scope["type"] != "http" or not path.startswith(PREFIX) or path in OPEN:
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        most = FEEDBACK_BYTES if path in FEEDBACK else self.max_bytes
        try:
            self._check_token(headers.get("authorization"), path)
            _check_length(headers.get("content-length"), most)
        except SoftpromptError as error:
            await error_response(error)(scope, receive, send)
            return
        token = PARENT.set(headers.get("traceparent"))
        try:
            body = _whole(_counted(receive, most), headers.get("content-type", ""))
            await self.app(scope, body, send)
        finally:
            PARENT.reset(token)

    def _check_token(self, authorization: str | None, path: str) -> None:
        admin = check_bearer(authorization, self.token(), lesser=self.feedback_token)
        if not admin and path not in FEEDBACK:
            msg = "This token may only send feedback and evaluations; expected the admin token."
            raise Forbidden(msg, code="token_scope")


def _check_length(declared: str | None, most: int) -> None:
    if declared is not None and declared.isdecimal() and int(declared) > most:
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
