"""Which versions this engine's workers hold, and the leases of requests in flight. One owner.

``lease``/``release`` guard a version against eviction by loads that go through this server;
workers guard what they are running themselves. What is believed resident here may be wrong if
another API server evicted it: then the worker fails that request closed, and ``recover`` reloads.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, Literal, Protocol

from softprompt_serve.artifact.content import keys_of
from softprompt_serve.errors import Conflict, SoftpromptError, Unavailable
from softprompt_serve.telemetry.events import Loaded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from softprompt_serve.registry.snapshot import Version
    from softprompt_serve.registry.store import Blobs

logger = logging.getLogger(__name__)

_DRAIN_POLL_SECONDS = 0.02


class Workers(Protocol):
    """The engine's workers, as the server reaches them; every call reaches all of them."""

    async def load(self, header: bytes, data: bytes, keep: Collection[str]) -> tuple[str, ...]:
        """Make a version resident on all; returns what was evicted for it."""

    async def restore(self, digest: str, keep: Collection[str]) -> bool:
        """Make it resident from the host tier; False unless all workers now hold it."""

    async def unload(self, digest: str, *, forget: bool) -> None:
        """Evict it everywhere; raises Conflict ``version_in_use``."""

    async def status(self) -> list[dict[str, Any]]:
        """One status per worker."""


class Lease:
    """A version that must stay resident; release it once, from anywhere."""

    __slots__ = ("_release", "digest")

    def __init__(self, digest: str, release: Callable[[str], None]) -> None:
        """Made by :meth:`Residency.lease`."""
        self.digest = digest
        self._release: Callable[[str], None] | None = release

    def release(self) -> None:
        """End the lease; a second call does nothing."""
        if self._release is not None:
            self._release(self.digest)
            self._release = None


class Residency:
    """Owner of leases and of the belief about what is resident.

    Attributes:
        pinned: digests that no load may evict.
        tell: is told of each load, done or failed.
    """

    def __init__(self, workers: Workers, store: Blobs) -> None:
        """Know nothing yet; :meth:`refresh` asks the workers."""
        self.workers = workers
        self.store = store
        self.pinned: frozenset[str] = frozenset()
        self.tell: Callable[[Loaded], None] = lambda _: None
        self._resident: set[str] = set()
        self._leases: Counter[str] = Counter()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def lease(self, version: Version) -> Lease:
        """Promise that ``version`` is in use; take it before :meth:`ensure`."""
        self._leases[version.digest] += 1
        return Lease(version.digest, self._end)

    def leases(self, digest: str) -> int:
        """Requests of this server in flight on that version."""
        return self._leases[digest]

    def is_resident(self, version: Version) -> bool:
        """Whether the version can be sent to the workers now, as far as is known."""
        return not version.learned or version.digest in self._resident

    def has_keys(self, version: Version) -> bool:
        """Whether the workers keep a soft version's keys and values, as far as is known."""
        return keys_of(version.digest) in self._resident

    async def ensure(self, version: Version) -> None:
        """Make ``version`` resident on all workers; returns at once if it is.

        Raises:
            Unavailable: ``bank_full``, ``blob_missing``, ``blob_corrupt`` or ``workers_failed``.
        """
        if self.is_resident(version):
            return
        digest = version.digest
        async with self._locks[digest]:
            if digest in self._resident:
                return
            await self._load(digest)

    async def _load(self, digest: str) -> None:
        """From the workers' host tier, else from the blob store."""
        keep, before, began = self._keep(), len(self._resident), time.perf_counter()
        source: Literal["host", "blob"] = "host"
        error, evicted = "", 0
        try:
            if await self.workers.restore(digest, keep):
                await self.refresh()  # others may have been evicted for it
                evicted = max(0, before - len(self._resident - {digest}))
            else:
                source = "blob"
                header, data = await asyncio.to_thread(self.store.get, digest)
                gone = await self.workers.load(header, data, keep)
                self._resident.difference_update(gone)
                evicted = len(gone)
            self._resident.add(digest)
        except BaseException as failure:
            error = failure.code if isinstance(failure, SoftpromptError) else type(failure).__name__
            raise
        finally:
            seconds = time.perf_counter() - began
            self.tell(Loaded(digest, source, seconds, evicted, error or None))

    async def recover(self, version: Version) -> bool:
        """After a failed request: whether the version was lost and could be made resident again.

        Raises:
            Unavailable: it was lost and can't be loaded.
        """
        await self.refresh()
        if self.is_resident(version):
            return False
        logger.warning("%s was no longer resident; loading it again.", version.label)
        await self.ensure(version)
        return True

    async def refresh(self) -> list[dict[str, Any]]:
        """Ask all workers what is resident; a version counts only where all of them have it."""
        statuses = await self.workers.status()
        held = [set(status["resident"]) for status in statuses]
        self._resident = set.intersection(*held) if held else set()
        return statuses

    async def unload(self, digest: str, *, forget: bool, within: float) -> None:
        """Wait for requests in flight, then evict.

        Raises:
            Conflict: ``version_in_use`` if they take longer than ``within`` seconds.
        """

        async def free() -> None:
            self._check_unleased(digest)
            if (keys := keys_of(digest)) in self._resident:
                self._resident.discard(keys)
                await self.workers.unload(keys, forget=True)
            self._resident.discard(digest)
            await self.workers.unload(digest, forget=forget)

        await until_idle(free, within)

    def _check_unleased(self, digest: str) -> None:
        if count := self._leases[digest]:
            msg = f"{count} request(s) in flight still use this version."
            raise Conflict(msg, code="version_in_use", retry_after=1)

    def _keep(self) -> list[str]:
        leased = {digest for digest, count in self._leases.items() if count}
        # A request that began with kept keys and values goes on with them after a preemption.
        return sorted(self.pinned | leased | {keys_of(digest) for digest in leased})

    def _end(self, digest: str) -> None:
        self._leases[digest] -= 1
        if not self._leases[digest]:
            del self._leases[digest]


async def until_idle(free: Callable[[], Awaitable[None]], within: float) -> None:
    """Try ``free`` again until nothing uses the version any more.

    Workers learn that a request has ended with the step after its last, so even what was just
    answered may be in use for a moment.

    Raises:
        Conflict: ``version_in_use`` if that takes longer than ``within`` seconds.
    """
    deadline = asyncio.get_running_loop().time() + within
    while True:
        try:
            return await free()
        except Conflict:
            if asyncio.get_running_loop().time() >= deadline:
                raise
            await asyncio.sleep(_DRAIN_POLL_SECONDS)


async def restore_all(residency: Residency, versions: list[Version]) -> dict[str, str]:
    """Load ``versions`` in order, as far as the bank has room, for a server's start.

    Returns:
        Labels of the versions that could not be loaded, with the reason.
    """
    problems: dict[str, str] = {}
    for version in versions:
        try:
            await residency.ensure(version)
        except SoftpromptError as error:
            problems[version.label] = error.message
            if not isinstance(error, Unavailable):
                logger.exception("Can't load %s", version.label)
    return problems
