"""Lets bearers in, and slows down those who guess; the gates before both APIs share one."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from softprompt_serve.access.pace import Pace
from softprompt_serve.errors import TooMany

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Scope

    from softprompt_serve.access.scopes import Grant
    from softprompt_serve.server.auth import Doorkeeper

_UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True)
class Used:
    """A token of the catalogue was accepted; whoever keeps count is told."""

    id: str


class Door:
    """Knows tokens, and how often who was wrong.

    Args:
        doorkeeper: knows what each token opens.
        failures: how often an address may be wrong. It is the connection's, or what uvicorn makes
            of a proxy's ``X-Forwarded-For`` where ``--forwarded-allow-ips`` trusts it.
        tell: hears of each token that was used.
    """

    def __init__(
        self,
        doorkeeper: Doorkeeper,
        failures: Pace | None = None,
        tell: Callable[[Used], None] = lambda _: None,
    ) -> None:
        self.doorkeeper = doorkeeper
        self._failures = failures or Pace(None)
        self._tell = tell

    def admit(self, given: str, scope: Scope) -> Grant | None:
        """What the bearer of a token may do; None if it is no token of ours.

        What nobody can guess is never kept waiting, so that nobody can lock others out by failing
        behind the same proxy. A token that a person chose waits with those who guess at it.

        Raises:
            TooMany: too many wrong ones came from there.
        """
        now, client = time.monotonic(), scope.get("client")
        address = str(client[0]) if client else _UNKNOWN
        grant = self.doorkeeper.grant(given)
        if grant is None:
            check_pace(self._failures.take(address, now), "wrong tokens")
            return None
        if grant.guessable:
            check_pace(self._failures.wait(address, now), "wrong tokens")
        if grant.id:
            self._tell(Used(grant.id))
        return grant


def check_pace(seconds: int, what: str) -> None:
    """Refuse what would have to wait.

    Raises:
        TooMany: ``too_many_requests``.
    """
    if seconds:
        msg = f"Too many {what} in the last minute; try again in {seconds} s."
        raise TooMany(msg, retry_after=seconds)
