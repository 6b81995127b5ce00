"""Changes become snapshots: follow the catalogue's revision and hand each new state on.

A feed looks as often as it is set to, and at once when the catalogue tells it of a change.
One thread of its own talks to the database, so that a slow disk never holds the event loop nor
waits behind other blocking work. Losing the database stops changes, not serving: the last
snapshot stays, and ``healthy`` says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from softprompt_serve.registry.snapshot import EMPTY, Snapshot

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)


class Source(Protocol):
    """Where snapshots come from; ``Catalogue`` is one. The first two methods may block."""

    def revision(self) -> int:
        """The number of changes so far."""

    def snapshot(self, previous: Snapshot) -> Snapshot:
        """The state as of now; what has not changed since ``previous`` may be shared."""

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call ``wake`` from any thread at a change, if that can be; returns what ends it."""


class Feed:
    """Follows a catalogue and applies each new snapshot, one at a time.

    Attributes:
        snapshot: the last one that was applied; empty before the first.
        error: why the last look failed, or None.
        last_seen_at: Unix time of the last look that succeeded, or None.
    """

    def __init__(
        self,
        catalogue: Source,
        apply: Callable[[Snapshot], Awaitable[None] | None],
        poll_seconds: float,
    ) -> None:
        self.snapshot: Snapshot = EMPTY
        self.error: str | None = None
        self.last_seen_at: float | None = None
        self._catalogue = catalogue
        self._apply = apply
        self._poll_seconds = poll_seconds
        self._applied: int | None = None
        self._lock = asyncio.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="softprompt-feed")
        self._task: asyncio.Task[None] | None = None
        self._told = asyncio.Event()
        self._unsubscribe: Callable[[], None] = lambda: None

    @property
    def healthy(self) -> bool:
        """Whether the last look at the catalogue succeeded and its state is applied."""
        return self.error is None and self.last_seen_at is not None

    async def start(self) -> None:
        """Look once, then go on in the background; a catalogue that is down isn't an error."""
        with contextlib.suppress(Exception):
            await self.refresh()
        loop = asyncio.get_running_loop()

        def wake() -> None:
            # The loop may be closed by the time that the last one arrives.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._told.set)

        self._unsubscribe = self._catalogue.subscribe(wake)
        self._task = asyncio.create_task(self._follow(), name="softprompt-feed")

    async def stop(self) -> None:
        """Stop following; the last snapshot stays."""
        self._unsubscribe()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def refresh(self) -> Snapshot:
        """Look now, and return the state when it is applied; call it after an own change.

        Raises:
            Unavailable: the catalogue can't be read; the last snapshot stays.
            Exception: whatever ``apply`` raised; the same state is tried again at the next look.
        """
        async with self._lock:
            loop = asyncio.get_running_loop()
            try:
                revision = await loop.run_in_executor(self._thread, self._catalogue.revision)
                if revision != self._applied:
                    found = await loop.run_in_executor(
                        self._thread, self._catalogue.snapshot, self.snapshot
                    )
                    outcome = self._apply(found)
                    if inspect.isawaitable(outcome):
                        await outcome
                    self.snapshot, self._applied = found, found.revision
            except Exception as error:
                self._note(f"{type(error).__name__}: {error}")
                raise
            self._note(None)
            self.last_seen_at = time.time()
            return self.snapshot

    async def _follow(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await self._told.wait()
            self._told.clear()
            # Noted and logged by refresh; the feed outlives whatever went wrong.
            with contextlib.suppress(Exception):
                await self.refresh()

    def _note(self, error: str | None) -> None:
        """Log each change of health once, not at each poll."""
        if error is not None and error != self.error:
            logger.error("The catalogue's changes can't be followed: %s", error)
        elif error is None and self.error is not None:
            logger.info("The catalogue's changes are followed again.")
        self.error = error
