"""Which rows of the slab belong to which version: placement, LRU and holds. Pure.

Workers of one engine see the same calls in the same order and there is no clock here, so every
rank decides alike without talking to the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from softprompt_serve.errors import BadRequest, Conflict, Unavailable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence


def rows_of(shape: Sequence[int], hidden_size: int) -> int:
    """Rows of the slab that a payload takes: n for ``[n, hidden_size]``, else as many as it fills."""
    return math.ceil(math.prod(shape) / hidden_size)


@dataclass(frozen=True, slots=True)
class Slot:
    """Rows ``start : start + rows`` of the slab, given to the version with ``digest``.

    What is ``spare`` only saves time, and goes before anything else does.
    """

    digest: str
    start: int
    rows: int
    spare: bool = False

    @property
    def stop(self) -> int:
        """One past the last row."""
        return self.start + self.rows


class Slots:
    """Owner of the slab's map. ``place``/``evict`` and ``hold``/``release`` are pairs.

    A *holder* is a request that the worker is running; what is held is never evicted. ``keep`` is
    what the caller (an API server) has leased or pinned and must not be evicted for a newcomer.
    """

    def __init__(self, capacity: int) -> None:
        """Make an empty map of ``capacity`` rows."""
        self.capacity = capacity
        self._slots: dict[str, Slot] = {}  # least recently used first
        self._holders: dict[str, str] = {}  # holder → digest
        self._held: dict[str, int] = {}  # digest → number of holders

    def find(self, digest: str) -> Slot | None:
        """The version's slot, or None where it isn't resident."""
        return self._slots.get(digest)

    def resident(self) -> tuple[Slot, ...]:
        """All slots, least recently used first."""
        return tuple(self._slots.values())

    def holders(self, digest: str) -> int:
        """How many running requests hold the version."""
        return self._held.get(digest, 0)

    def digest_of(self, holder: str) -> str:
        """The version that ``holder`` holds."""
        return self._holders[holder]

    @property
    def used(self) -> int:
        """Rows given away."""
        return sum(slot.rows for slot in self._slots.values())

    @property
    def spare_room(self) -> int:
        """The most rows that something spare could have now, in one piece."""
        gone = {slot.digest for slot in self._slots.values() if self._is_free(slot) and slot.spare}
        return max(rows for _, rows in self._gaps(gone))

    def place(
        self, digest: str, rows: int, *, keep: Collection[str] = (), spare: bool = False
    ) -> tuple[Slot, tuple[str, ...]]:
        """Give ``rows`` rows to ``digest``, evicting the least recently used if need be.

        What is ``spare`` is evicted first, and evicts only its like.

        Returns:
            The slot and the digests that were evicted for it. Placing a resident version again
            returns its slot, evicts nothing and counts as use.

        Raises:
            BadRequest: ``bank_too_small`` if the rows can never fit.
            Unavailable: ``bank_full`` if they would fit only by evicting what is held or kept;
                nothing has changed then.
        """
        if slot := self._slots.get(digest):
            self._touch(digest)
            return slot, ()
        if not 0 < rows <= self.capacity:
            msg = (
                f"A version of {rows} rows can't fit a bank of {self.capacity}; "
                "raise SOFTPROMPT_BANK_ROWS."
            )
            raise BadRequest(msg, code="bank_too_small")
        start, evicted = self._make_room(rows, keep, spare=spare)
        for victim in evicted:
            del self._slots[victim]
        slot = Slot(digest, start, rows, spare)
        self._slots[digest] = slot
        return slot, evicted

    def evict(self, digest: str) -> Slot | None:
        """Take the version's rows back; None if it had none.

        Raises:
            Conflict: ``version_in_use`` while a running request holds it.
        """
        if count := self.holders(digest):
            msg = f"Version {digest[:12]} is held by {count} running request(s)."
            raise Conflict(msg, code="version_in_use", retry_after=1)
        return self._slots.pop(digest, None)

    def hold(self, digest: str, holder: str) -> Slot | None:
        """Note that ``holder`` runs with ``digest``; None, and nothing held, if not resident."""
        self.release(holder)
        slot = self._slots.get(digest)
        if slot is None:
            return None
        self._touch(digest)
        self._holders[holder] = digest
        self._held[digest] = self.holders(digest) + 1
        return slot

    def release(self, holder: str) -> None:
        """Forget ``holder``; fine if it holds nothing."""
        digest = self._holders.pop(holder, None)
        if digest is None:
            return
        self._held[digest] -= 1
        if not self._held[digest]:
            del self._held[digest]

    def _touch(self, digest: str) -> None:
        self._slots[digest] = self._slots.pop(digest)

    def _make_room(
        self, rows: int, keep: Collection[str], *, spare: bool
    ) -> tuple[int, tuple[str, ...]]:
        """Find the first gap that fits after evicting as few of the least recent as needed."""
        victims: list[Slot] = []
        candidates = [
            slot
            for slot in self._slots.values()
            if slot.digest not in keep and self._is_free(slot) and (slot.spare or not spare)
        ]
        candidates.sort(key=lambda slot: not slot.spare)
        while (start := self._first_gap(rows, {v.digest for v in victims})) is None:
            if len(victims) == len(candidates):
                free = self.capacity - self.used
                msg = (
                    f"The bank has no room for {rows} more rows: {free} of "
                    f"{self.capacity} rows are free and the rest is in use or pinned. "
                    "Raise SOFTPROMPT_BANK_ROWS or unload a version."
                )
                raise Unavailable(msg, code="bank_full", retry_after=1)
            victims.append(candidates[len(victims)])
        stop = start + rows
        return start, tuple(v.digest for v in victims if v.start < stop and start < v.stop)

    def _is_free(self, slot: Slot) -> bool:
        return not self.holders(slot.digest)

    def _first_gap(self, rows: int, without: Collection[str]) -> int | None:
        """The lowest row from which ``rows`` rows are free, ignoring slots in ``without``."""
        return next((start for start, free in self._gaps(without) if free >= rows), None)

    def _gaps(self, without: Collection[str]) -> Iterator[tuple[int, int]]:
        """Where nothing lies and how many rows that is, ignoring slots in ``without``."""
        start = 0
        for slot in sorted(self._slots.values(), key=lambda slot: slot.start):
            if slot.digest not in without:
                yield start, slot.start - start
                start = slot.stop
        yield start, self.capacity - start
