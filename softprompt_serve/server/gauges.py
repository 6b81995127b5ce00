"""Asks the workers what they hold, every so often and when it has changed, and shows it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

from softprompt_serve.server.background import Background
from softprompt_serve.telemetry.events import Applied, Loaded

if TYPE_CHECKING:
    from softprompt_serve.server.service import Service
    from softprompt_serve.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

SETTLE_SECONDS: Final = 0.25
"""Loads and changes come in groups, which one look covers."""


class Gauges:
    """A companion of one service; one look at a time.

    Args:
        service: whose workers are asked.
        metrics: where the answer is shown.
        every: seconds between two looks while nothing happens.
        settle: seconds from a change to the look at it.

    Attributes:
        error: why the last look failed, or None.
    """

    def __init__(
        self,
        service: Service,
        metrics: Metrics,
        every: float = 15.0,
        settle: float = SETTLE_SECONDS,
    ) -> None:
        self.error: str | None = None
        self._service = service
        self._metrics = metrics
        self._every = every
        self._settle = settle
        self._changed = asyncio.Event()
        self._task = Background("softprompt-gauges")
        service.events.listen(Applied, lambda _: self._changed.set())
        service.events.listen(Loaded, lambda _: self._changed.set())

    async def start(self) -> None:
        """Begin; waits for nothing."""
        self._task.start(self._live())

    async def stop(self) -> None:
        """End."""
        await self._task.stop()

    async def look(self) -> None:
        """Ask and show; what fails is logged once, and left for the next time."""
        residency = self._service.residency
        try:
            statuses = await residency.refresh()
            self._metrics.bank(statuses, residency.is_resident, self._service.snapshot)
        except Exception as failure:  # noqa: BLE001 - looking goes on, whatever went wrong
            error = f"{type(failure).__name__}: {failure}"
            if self.error is None:
                logger.warning("What the workers hold can't be shown in metrics: %s", error)
            self.error = error
            return
        if self.error is not None:
            logger.info("What the workers hold is shown in metrics again.")
        self.error = None

    async def _live(self) -> None:
        while True:
            self._changed.clear()
            await self.look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._every):
                    await self._changed.wait()
                await asyncio.sleep(self._settle)
