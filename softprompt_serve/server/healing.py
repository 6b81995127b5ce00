"""Tries again what could not be loaded, so that an arm gets its share as soon as it can have it.

A change is followed even where one of its versions can't be loaded (a blob store that is away): that
arm then takes no share here, and so no request would ever ask for it again.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from softprompt_serve.server.background import Background
from softprompt_serve.telemetry.events import Applied

if TYPE_CHECKING:
    from softprompt_serve.server.service import Service

logger = logging.getLogger(__name__)

EVERY_SECONDS: Final = 2.0


class Healing:
    """A companion of one service."""

    def __init__(self, service: Service, every_seconds: float = EVERY_SECONDS) -> None:
        self._service = service
        self._every_seconds = every_seconds
        self._task = Background("softprompt-healing")

    async def start(self) -> None:
        """Begin; waits for nothing."""
        self._task.start(self._live())

    async def stop(self) -> None:
        """End."""
        await self._task.stop()

    async def tick(self) -> None:
        """Load what traffic may need and is not resident, and tell the others of it."""
        service = self._service
        failed = set(service.keeping.unloadable)
        if not failed.intersection(v.label for v in service.snapshot.in_production()):
            return
        await service.keeping.prepare(service.snapshot, service.traffic)
        if healed := sorted(failed - set(service.keeping.unloadable)):
            logger.info("Resident again: %s.", ", ".join(healed))
            service.events.emit(Applied(service.traffic))

    async def _live(self) -> None:
        while True:
            await asyncio.sleep(self._every_seconds)
            try:
                await self.tick()
            except Exception:
                logger.exception("Versions that are not resident could not be tried again.")
