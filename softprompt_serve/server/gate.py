"""ASGI gate before the admin API: who may call what, how often, and how much a body may hold.

It stands before FastAPI reads the body, so neither a stranger nor a large upload costs memory.
What a call takes is in one table, ``access/endpoints.py``; a call that is not there is refused.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection  # noqa: TC002 - FastAPI reads it

from softprompt_serve.access import endpoints
from softprompt_serve.access.pace import Pace
from softprompt_serve.access.scopes import Grant
from softprompt_serve.errors import SoftpromptError, TooLarge, TooMany, Unauthorized
from softprompt_serve.server.scope import error_response, route_path
from softprompt_serve.telemetry.operations import PARENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from softprompt_serve.access.endpoints import Endpoint
    from softprompt_serve.server.auth import Doorkeeper

PREFIX = "/softprompts/v1"
FEEDBACK_BYTES = 65_536

_GRANT: Final = "softprompt_grant"
_UNKNOWN: Final = "unknown"
_MOST_DIGITS: Final = 18
"""Of a declared length; Python refuses to read numbers of thousands of digits."""


@dataclass(frozen=True, slots=True)
class Used:
    """A token of the catalogue was accepted; whoever keeps count is told."""

    id: str


@dataclass(frozen=True, slots=True)
class Limits:
    """How often: failed attempts for each address, changes for each token.

    Addresses are those of the connection, or what uvicorn makes of a proxy's
    ``X-Forwarded-For`` where ``--forwarded-allow-ips`` trusts it.
    """

    failures: Pace = field(default_factory=lambda: Pace(None))
    changes: Pace = field(default_factory=lambda: Pace(None))


class AdminGate:
    """Checks token, scope and pace, and bounds the body, of calls under :data:`PREFIX`."""

    def __init__(
        self,
        app: ASGIApp,
        doorkeeper: Doorkeeper,
        max_bytes: int,
        limits: Limits | None = None,
        tell: Callable[[Used], None] = lambda _: None,
    ) -> None:
        """Guard ``app``; ``max_bytes`` is per body, ``tell`` hears of each token that was used."""
        self.app = app
        self.doorkeeper = doorkeeper
        self.max_bytes = max_bytes
        self.limits = limits or Limits()
        self.tell = tell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on, or refuse it; what it changes is traced below its caller."""
        path = route_path(scope)
        below = path.removeprefix(PREFIX)
        if scope["type"] != "http" or not path.startswith(PREFIX) or below in endpoints.OPEN:
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        most = FEEDBACK_BYTES if below in endpoints.SMALL else self.max_bytes
        try:
            grant = self._admit(headers, _address(scope))
            endpoint, prompt = endpoints.find(scope["method"], below)
            endpoint.check(grant, prompt)
            self._slow_down(endpoint, grant)
            _check_length(headers.get("content-length"), most)
        except SoftpromptError as error:
            await error_response(error)(scope, receive, send)
            return
        token = PARENT.set(headers.get("traceparent"))
        try:
            await self.app({**scope, _GRANT: grant}, _counted(receive, most), send)
        finally:
            PARENT.reset(token)

    def _admit(self, headers: Headers, address: str) -> Grant:
        """Who calls.

        What nobody can guess is never kept waiting, so that nobody can lock others out by failing
        behind the same proxy. A token that a person chose waits with those who guess at it.

        Raises:
            Unauthorized, TooMany: and then nothing else is looked at.
        """
        now = time.monotonic()
        try:
            grant = self.doorkeeper.admit(headers.get("authorization"))
        except Unauthorized as error:
            if error.code == "invalid_admin_token":
                _check_pace(self.limits.failures.take(address, now), "wrong tokens")
            raise
        if grant.guessable:
            _check_pace(self.limits.failures.wait(address, now), "wrong tokens")
        if grant.id:
            self.tell(Used(grant.id))
        return grant

    def _slow_down(self, endpoint: Endpoint, grant: Grant) -> None:
        if endpoint.change and endpoint.method != endpoints.READ:
            _check_pace(self.limits.changes.take(grant.id, time.monotonic()), "changes")


def grant_of(connection: HTTPConnection) -> Grant:
    """What the caller of an admin call may do.

    Raises:
        KeyError: the call did not come through the gate.
    """
    found = connection.scope[_GRANT]
    assert isinstance(found, Grant)  # noqa: S101 - the gate's own
    return found


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else _UNKNOWN


def _check_pace(seconds: int, what: str) -> None:
    if seconds:
        msg = f"Too many {what} in the last minute; try again in {seconds} s."
        raise TooMany(msg, retry_after=seconds)


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


def _too_large(most: int) -> TooLarge:
    msg = f"The body is larger than {most} bytes"
    if most != FEEDBACK_BYTES:
        msg += "; SOFTPROMPT_MAX_UPLOAD_BYTES raises the limit"
    return TooLarge(f"{msg}.")
