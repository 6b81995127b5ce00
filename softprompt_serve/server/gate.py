"""ASGI gate before the admin API: who may call, and how much a body may hold.

It stands before FastAPI reads the body, so neither a stranger nor a large upload costs memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from softprompt_serve.errors import SoftpromptError, TooLarge
from softprompt_serve.server.auth import check_bearer
from softprompt_serve.server.scope import error_response, route_path
from softprompt_serve.telemetry.operations import PARENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PREFIX = "/softprompts/v1"
OPEN = frozenset({f"{PREFIX}/healthz", f"{PREFIX}/readyz"})


class AdminGate:
    """Checks the bearer token and bounds the body of calls under :data:`PREFIX`."""

    def __init__(self, app: ASGIApp, token: Callable[[], str], max_bytes: int) -> None:
        """Guard ``app``; ``token`` is asked for on each call, ``max_bytes`` is per body."""
        self.app = app
        self.token = token
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on, or answer 401 or 413; what it changes is traced below its caller."""
        path = route_path(scope)
        if scope["type"] != "http" or not path.startswith(PREFIX) or path in OPEN:
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            check_bearer(headers.get("authorization"), self.token())
            self._check_length(headers.get("content-length"))
        except SoftpromptError as error:
            await error_response(error)(scope, receive, send)
            return
        token = PARENT.set(headers.get("traceparent"))
        try:
            await self.app(scope, self._counted(receive), send)
        finally:
            PARENT.reset(token)

    def _check_length(self, declared: str | None) -> None:
        if declared is not None and declared.isdecimal() and int(declared) > self.max_bytes:
            raise self._too_large()

    def _counted(self, receive: Receive) -> Receive:
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise self._too_large()
            return message

        return counted

    def _too_large(self) -> TooLarge:
        msg = (
            f"The body is larger than {self.max_bytes} bytes; "
            "SOFTPROMPT_MAX_UPLOAD_BYTES raises the limit."
        )
        return TooLarge(msg)
