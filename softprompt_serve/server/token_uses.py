"""Notes when tokens were used last: gathered in memory, written now and then, to the hour.

A request's own task only adds to a set. Nothing is lost that matters if the catalogue is down.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final

from softprompt_serve.errors import SoftpromptError
from softprompt_serve.server.background import Background

if TYPE_CHECKING:
    from collections.abc import Callable

    from softprompt_serve.registry.access import AccessTokens
    from softprompt_serve.server.door import Used

logger = logging.getLogger(__name__)

EVERY_SECONDS: Final = 60.0
HOUR: Final = 3600


class TokenUses:
    """A companion; a listener of :class:`~softprompt_serve.server.door.Used`.

    Args:
        tokens: where they are kept.
        every_seconds: between two writes.
        clock: Unix time.
    """

    def __init__(
        self,
        tokens: AccessTokens,
        every_seconds: float = EVERY_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._tokens = tokens
        self._every_seconds = every_seconds
        self._clock = clock
        self._waiting: set[str] = set()
        self._written: dict[str, int] = {}  # the hour that was written last, by token
        self._task = Background("softprompt-token-uses")

    def __call__(self, used: Used) -> None:
        """Note a use, unless this hour's is written."""
        if self._written.get(used.id) != self._hour():
            self._waiting.add(used.id)

    async def start(self) -> None:
        """Begin to write; waits for nothing."""
        self._task.start(self._live())

    async def stop(self) -> None:
        """Write what has gathered, and end."""
        if await self._task.stop():
            await self.flush()

    async def flush(self) -> None:
        """Write what waits; what can't be written waits on."""
        ids, hour = frozenset(self._waiting), self._hour()
        if not ids:
            return
        at = time.strftime("%Y-%m-%dT%H:00:00.000Z", time.gmtime(hour * HOUR))
        try:
            await asyncio.to_thread(self._tokens.used, ids, at)
        except SoftpromptError as error:
            logger.info("When tokens were used can't be written now: %s", error)
            return
        self._waiting -= ids
        self._written |= dict.fromkeys(ids, hour)

    async def _live(self) -> None:
        while True:
            await asyncio.sleep(self._every_seconds)
            await self.flush()

    def _hour(self) -> int:
        return int(self._clock() // HOUR)
