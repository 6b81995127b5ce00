"""Versions on their way out: rows are freed when their last request has ended, then the blob."""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import TYPE_CHECKING

from softprompt_serve.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from softprompt_serve.registry.snapshot import Snapshot, Version
    from softprompt_serve.server.service import Service


class Drains:
    """What one service is letting go of.

    Attributes:
        blobs: held while a blob and its catalogue row must agree.
    """

    def __init__(self, service: Service) -> None:
        """Nothing leaves yet."""
        self.blobs = asyncio.Lock()
        self._service = service
        self._tasks: set[asyncio.Task[None]] = set()
        self._handled: set[str] = set()

    @contextlib.contextmanager
    def handling(self, version: Version) -> Iterator[None]:
        """A call of this server drains the version itself; following its change must not."""
        self._handled.add(version.digest)
        try:
            yield
        finally:
            self._handled.discard(version.digest)

    def free_unused(self, before: Snapshot, now: Snapshot) -> None:
        """Let go of rows that another replica's change has left without a use."""
        wanted = {v.digest for v in now.versions() if v.wanted} | self._handled
        for version in before.versions():
            if version.wanted and version.digest not in wanted:
                self.begin(version, forget=False)

    def begin(self, version: Version, *, forget: bool) -> asyncio.Task[None]:
        """Drain in the background, however long the last request takes."""
        task = asyncio.create_task(self.drain(version, forget=forget, within=math.inf))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def drain(self, version: Version, *, within: float, forget: bool = False) -> None:
        """Free a version's rows once nobody uses them; with ``forget``, its blob as well.

        Raises:
            Conflict: ``version_in_use`` if requests outlast ``within`` seconds.
        """
        service = self._service
        if version.learned and not any(v.wanted for v in service.snapshot.twins(version)):
            if service.served.siblings:
                await asyncio.sleep(3 * service.settings.poll_seconds)  # until they follow too
            await service.residency.unload(version.digest, forget=forget, within=within)
        if not forget:
            return
        async with self.blobs:
            await asyncio.to_thread(self.forget, version.digest)

    def forget(self, digest: str) -> None:
        """Delete a blob that no version names; blocks, and whoever calls holds ``blobs``.

        The same content may be imported anew meanwhile, here or on another replica, which stores
        the blob before it catalogues the version: so look before, and again after.
        """
        service = self._service

        def named() -> bool:
            now = service.catalogue.snapshot(service.snapshot)
            return any(v.digest == digest for v in now.versions())

        if named() or not service.store.has(digest):
            return
        content: tuple[bytes, bytes] | None = None
        with contextlib.suppress(Unavailable):  # a damaged blob goes all the same
            content = service.store.get(digest)
        service.store.delete(digest)
        if content is not None and named():
            service.store.put(digest, *content)

    def cancel(self) -> None:
        """Stop waiting; the workers keep what they hold."""
        for task in self._tasks:
            task.cancel()
