"""Removes runs of evaluations that are not kept any longer, once an hour."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from softprompt_serve.errors import Unavailable
from softprompt_serve.registry.evidence_removal import Removal, Retention
from softprompt_serve.server.background import Background

if TYPE_CHECKING:
    from softprompt_serve.server.service import Service

logger = logging.getLogger(__name__)

FIRST_SECONDS: Final = 60.0
EVERY_SECONDS: Final = 3600.0


class Tidying:
    """A companion of one service. Several replicas may tidy at once: each finds less to do."""

    def __init__(self, service: Service) -> None:
        settings = service.settings
        self._service = service
        self._removal = Removal(service.catalogue.database)
        self._retention = Retention(settings.evidence_runs, settings.evidence_days)
        self._task = Background("softprompt-retention")

    async def start(self) -> None:
        """Begin; waits for nothing."""
        self._task.start(self._live())

    async def stop(self) -> None:
        """End."""
        await self._task.stop()

    async def tidy(self) -> int:
        """Remove what is not kept any longer; how many runs that was.

        Raises:
            Unavailable: ``catalogue_unavailable``; what is left is removed the next time.
        """
        removed = await asyncio.to_thread(self._removal.tidy, self._retention)
        if removed:
            logger.info("Removed %d runs of evaluations that are not kept any longer.", removed)
            await self._service.feed.refresh()
        return removed

    async def _live(self) -> None:
        await asyncio.sleep(FIRST_SECONDS)
        while True:
            try:
                await self.tidy()
            except Unavailable as error:
                logger.warning("Old runs of evaluations can't be removed now: %s", error.message)
            except Exception:
                logger.exception("Old runs of evaluations could not be removed.")
            await asyncio.sleep(EVERY_SECONDS)
