"""One task of a companion, from its start to its end."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Coroutine


class Companion(Protocol):
    """What runs beside a service for as long as it does."""

    async def start(self) -> None:
        """Begin; must not wait for anything that may be down."""

    async def stop(self) -> None:
        """End."""


class Background:
    """Runs in the background until it is stopped; it may be started again after that."""

    def __init__(self, name: str) -> None:
        """``name`` is the task's, for whoever lists them."""
        self._name = name
        self._task: asyncio.Task[None] | None = None

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin; waits for nothing."""
        self._task = asyncio.create_task(work, name=self._name)

    async def stop(self) -> bool:
        """Cancel it and wait for its end; False if there is nothing to stop."""
        if self._task is None:
            return False
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._task = None
        return True
