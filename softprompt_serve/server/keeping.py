"""What must be resident for the traffic there is: loaded, pinned, and warm before it is needed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from softprompt_serve.errors import SoftpromptError
from softprompt_serve.server.residency import restore_all

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from softprompt_serve.registry.snapshot import Snapshot, Version
    from softprompt_serve.server.residency import Residency

logger = logging.getLogger(__name__)


class Warm(Protocol):
    """Makes versions quick to answer for the first time; returns after a moment in any case."""

    async def __call__(self, versions: Iterable[Version]) -> None:
        """Warm those that are not warm yet."""


class Keeping:
    """Holds versions on the workers for as long as traffic may come for them.

    Attributes:
        unloadable: why a version is not resident, by its label.
        warm: is called with what is about to be served; None while there is no engine to warm.
    """

    def __init__(self, residency: Residency) -> None:
        self.unloadable: dict[str, str] = {}
        self.warm: Warm | None = None
        self._residency = residency

    async def prepare(self, snapshot: Snapshot, traffic: Snapshot) -> None:
        """Load what may be asked for, and warm what will be."""
        await self.restore(needed(snapshot, traffic))
        if self.warm is not None:
            resident = self._residency.is_resident
            await self.warm([one for one in traffic.in_production() if resident(one)])

    async def restore(self, versions: list[Version]) -> None:
        """Load ``versions``; reasons why others are not resident stay as they were."""
        tried = {version.label for version in versions}
        problems = await restore_all(self._residency, versions)
        others = {label: why for label, why in self.unloadable.items() if label not in tried}
        self.unloadable = others | problems

    async def load(self, version: Version) -> None:
        """Load one that has just come; it stays stored if that fails."""
        try:
            await self._residency.ensure(version)
        except SoftpromptError as error:
            self.unloadable[version.label] = error.message
            logger.warning("%s is stored but not resident: %s", version.label, error.message)

    def pin(self, snapshot: Snapshot, traffic: Snapshot) -> None:
        """Keep what may be asked for from being evicted."""
        self._residency.pinned = frozenset(one.digest for one in needed(snapshot, traffic))


def needed(snapshot: Snapshot, traffic: Snapshot) -> list[Version]:
    """What may be asked for by a prompt's own name, now or once its versions are verified."""
    found = {version.label: version for version in snapshot.in_production()}
    return list((found | {version.label: version for version in traffic.in_production()}).values())


def fitting(
    versions: Iterable[Version],
    pinned: Collection[str],
    rows: int,
    size: Callable[[Version], int],
) -> list[Version]:
    """Those learned ones of ``versions``, in order, that a bank of so many rows can hold together.

    What is pinned is among them in any case. Nothing is there that would have to leave for another
    one: of ten thousand that are wanted, a bank for a hundred loads a hundred, the first ones.

    Args:
        versions: what is wanted, the most urgent first.
        pinned: digests of those that must be there.
        rows: of the bank.
        size: rows that a version takes.
    """
    found: list[Version] = []
    seen: set[str] = set()
    for version in versions:
        if not version.learned or version.digest in seen:
            continue
        taken = size(version)
        if version.digest in pinned or taken <= rows:
            found.append(version)
            seen.add(version.digest)
            rows -= taken
    return found
