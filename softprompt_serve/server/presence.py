"""A replica says that it lives and what it serves, so that a change is known to be everywhere."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from softprompt_serve.server.background import Background

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from softprompt_serve.registry.replicas import Replicas, Serving

logger = logging.getLogger(__name__)


class Presence:
    """Beats every so often, and at once when asked; one beat at a time, in a thread of its own.

    Args:
        replicas: where the beats are written.
        id: this replica's id, unique to the process.
        name: what people call it.
        state: the revision served and what is served of each rollout; asked on the event loop.
        every_seconds: between two beats.

    Attributes:
        error: why the last beat failed, or None.
    """

    def __init__(
        self,
        replicas: Replicas,
        id: str,  # noqa: A002 - the replica's own word for it
        name: str,
        state: Callable[[], tuple[int, Mapping[str, Serving]]],
        every_seconds: float,
    ) -> None:
        self.error: str | None = None
        self._replicas = replicas
        self._id = id
        self._name = name
        self._state = state
        self._every_seconds = every_seconds
        self._asked = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="softprompt-presence")
        self._task = Background("softprompt-presence")

    async def start(self) -> None:
        """Begin to beat; waits for nothing."""
        self._task.start(self._live())

    async def stop(self) -> None:
        """Beat no more and leave; a database that is down lets the replica fall silent instead."""
        if await self._task.stop():
            # Behind a beat that is still on its way, as there is one thread.
            with self._noted():
                await self._call(self._replicas.leave, self._id)
        self._thread.shutdown(wait=False)

    def report(self) -> None:
        """Beat at once, or right after the beat that is on its way; call it on the event loop."""
        self._asked.set()

    async def _live(self) -> None:
        while True:
            self._asked.clear()
            await self._beat()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._every_seconds):
                    await self._asked.wait()

    async def _beat(self) -> None:
        with self._noted():
            revision, rollouts = self._state()
            await self._call(self._replicas.beat, self._id, self._name, revision, rollouts)

    async def _call(self, method: Callable[..., None], *arguments: object) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, method, *arguments)

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - beating goes on, whatever went wrong
            self._note(f"{type(error).__name__}: {error}")
        else:
            self._note(None)

    def _note(self, error: str | None) -> None:
        """Log each change of health once, not at each beat."""
        if error is not None and self.error is None:
            logger.error("Other replicas can't be told what this one serves: %s", error)
        elif error is None and self.error is not None:
            logger.info("Other replicas are told again what this one serves.")
        self.error = error
