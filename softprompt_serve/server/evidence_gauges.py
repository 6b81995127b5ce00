"""Reads what evaluations say of the versions after each change, and shows it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from softprompt_serve.errors import Unavailable
from softprompt_serve.registry.evidence import Evidence
from softprompt_serve.server.background import Background
from softprompt_serve.telemetry.events import Applied

if TYPE_CHECKING:
    from softprompt_serve.registry.evidence import Result
    from softprompt_serve.server.service import Service
    from softprompt_serve.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

SETTLE_SECONDS: Final = 0.25
"""Changes come in groups, which one look covers."""

RETRY_SECONDS: Final = 5.0


class EvidenceGauges:
    """A companion of one service; one look at a time.

    Adding or removing a run is a change of the catalogue like any other, so every server hears of it.

    Args:
        service: whose catalogue is read.
        metrics: where it is shown.
        settle: seconds from a change to the look at it.
        retry: seconds from a look that failed to the next.
    """

    def __init__(
        self,
        service: Service,
        metrics: Metrics,
        settle: float = SETTLE_SECONDS,
        retry: float = RETRY_SECONDS,
    ) -> None:
        self._service = service
        self._metrics = metrics
        self._settle = settle
        self._retry = retry
        self._evidence = Evidence(service.catalogue.database)
        self._mark: tuple[int, float] | None = None
        self._results: list[Result] = []
        self._failing = False
        self._changed = asyncio.Event()
        self._task = Background("softprompt-evidence-gauges")
        service.events.listen(Applied, lambda _: self._changed.set())

    async def start(self) -> None:
        """Begin; waits for nothing."""
        self._task.start(self._live())

    async def stop(self) -> None:
        """End."""
        await self._task.stop()

    async def look(self) -> bool:
        """Read and show; False if it can't be read now, which is logged once."""
        try:
            # A run never changes; what is known is read again once runs came or went.
            mark = await asyncio.to_thread(self._evidence.mark)
            if mark != self._mark:
                self._results = await asyncio.to_thread(self._evidence.summary)
                self._mark = mark
        except Unavailable as error:
            if not self._failing:
                logger.warning("Evaluations can't be shown in metrics now: %s", error.message)
            self._failing = True
            return False
        if self._failing:
            logger.info("Evaluations are shown in metrics again.")
        self._failing = False
        self._metrics.evaluations(self._results, self._service.snapshot)
        return True

    async def _live(self) -> None:
        while True:
            self._changed.clear()
            if not await self.look():
                await asyncio.sleep(self._retry)
                continue
            await self._changed.wait()
            await asyncio.sleep(self._settle)
