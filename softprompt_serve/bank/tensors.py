"""The slab on a device, and the host tier behind it.

Two kinds of payload share the slab, and so one budget: a soft version's rows, and a prefix's keys
and values, which fill as many rows as they have values for. One :class:`Bank` lives in each worker
process. Its owner is the worker's thread: vLLM runs RPCs between steps, so a load never races a
forward pass.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

from softprompt_serve.bank.slots import Slots, rows_of
from softprompt_serve.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Collection

    from softprompt_serve.artifact import Content
    from softprompt_serve.bank.heads import Heads
    from softprompt_serve.bank.slots import Slot

_SOFT, _DEEP = 2, 5
_TOKENS = {_SOFT: 0, _DEEP: 2}
"""Where the number of virtual tokens stands in a payload's shape, by its rank."""


class Bank:
    """Resident tensors: ``slab`` is ``[capacity, hidden_size]`` in the model's dtype.

    ``load``/``evict`` move versions in and out, ``hold``/``release`` mark what running requests
    read. Evicted tensors stay in host memory, up to ``host_bytes``, so that ``restore`` needs no
    bytes from the caller.
    """

    def __init__(
        self,
        capacity: int,
        hidden_size: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
        host_bytes: int,
        heads: Heads | None = None,
    ) -> None:
        """Reserve the slab at once, so that vLLM's memory profiling sees it.

        Args:
            capacity: rows of the slab.
            hidden_size: its columns.
            dtype: the model's.
            device: where the model is.
            host_bytes: what evicted tensors may take in host memory.
            heads: which keys and values this worker holds; None if it takes none.
        """
        self.heads = heads
        self.slots = Slots(capacity)
        self.slab = torch.zeros(capacity, hidden_size, dtype=dtype, device=device)
        self.host_bytes = host_bytes
        self._host: dict[str, torch.Tensor] = {}  # resident and evicted, least recent first
        self._sums: dict[str, str] = {}  # digest → checksum of the cast rows

    @property
    def hidden_size(self) -> int:
        """Columns of the slab."""
        return self.slab.shape[1]

    def load(self, content: Content, *, keep: Collection[str] = ()) -> tuple[str, ...]:
        """Make ``content``'s tensor resident, cast to the slab's dtype.

        Returns:
            Digests of the versions that were evicted to the host tier for it.

        Raises:
            BadRequest: a shape that isn't the model's, values that the cast makes non-finite, or too
                many rows.
            Unavailable: ``bank_full``.
        """
        rows = self._own(content).to(self.slab.dtype)
        if not bool(torch.isfinite(rows).all()):
            msg = f"The tensor is not finite once cast to {self.slab.dtype}."
            raise BadRequest(msg, code="artifact_not_finite")
        return self._write(content.digest, rows, keep)

    def restore(self, digest: str, *, keep: Collection[str] = ()) -> bool:
        """Make an evicted version resident again from the host tier; False if it isn't there.

        Raises:
            Unavailable: ``bank_full``.
        """
        if self.slots.find(digest):
            return True
        rows = self._host.get(digest)
        if rows is None:
            return False
        self._write(digest, rows, keep)
        return True

    def evict(self, digest: str) -> bool:
        """Take a version's rows back, keeping its tensor in the host tier; False if it had none.

        Raises:
            Conflict: ``version_in_use``.
        """
        evicted = self.slots.evict(digest) is not None
        self._trim()
        return evicted

    def forget(self, digest: str) -> None:
        """Evict a version and drop its host copy too.

        Raises:
            Conflict: ``version_in_use``.
        """
        self.slots.evict(digest)
        self._drop(digest)

    def store(self, digest: str, payload: torch.Tensor) -> None:
        """Keep a tensor that this worker made itself, as long as nothing else needs its room.

        Args:
            digest: the name to hold it by.
            payload: in the slab's dtype, on any device.

        Raises:
            BadRequest: too many rows.
            Unavailable: ``bank_full``.
        """
        self._write(digest, payload.cpu(), (), spare=True)

    @property
    def keys_room(self) -> int:
        """Virtual tokens whose keys and values ``store`` would find room for now."""
        if self.heads is None:
            return 0
        return self.slots.spare_room * self.hidden_size // self.heads.values_per_token

    def hold(
        self, digest: str, tokens: int, holder: str, *, deep: bool = False
    ) -> torch.Tensor | None:
        """A version's payload on the device, held until ``release``.

        ``[tokens, hidden_size]``, or of a prefix (``deep``) this worker's keys and values
        ``[layers, 2, tokens, heads, head_dim]``. None if no such payload is resident.
        """
        slot = self.slots.hold(digest, holder)
        if slot is None:
            return None
        shape = self._host[digest].shape
        if len(shape) != (_DEEP if deep else _SOFT) or shape[_TOKENS[len(shape)]] != tokens:
            self.slots.release(holder)
            return None
        return self._view(slot)

    def release(self, holder: str) -> None:
        """End a hold; fine if there is none."""
        self.slots.release(holder)

    def on_host(self, digest: str) -> torch.Tensor:
        """A resident version's rows in host memory, for runners that gather on the host."""
        return self._host[digest]

    def host_digests(self) -> tuple[str, ...]:
        """Versions in the host tier that are not resident, least recently loaded first."""
        return tuple(digest for digest in self._host if not self.slots.find(digest))

    def verify(self) -> tuple[str, ...]:
        """Digests whose rows on the device are no longer what was loaded; reads them all back."""
        return tuple(
            slot.digest
            for slot in self.slots.resident()
            if _checksum(self._view(slot)) != self._sums[slot.digest]
        )

    def _write(
        self, digest: str, rows: torch.Tensor, keep: Collection[str], *, spare: bool = False
    ) -> tuple[str, ...]:
        size = rows_of(rows.shape, self.hidden_size)
        if self.slots.find(digest):
            self.slots.place(digest, size)  # counts as use
            return ()
        before = self.slots.resident()
        slot, evicted = self.slots.place(digest, size, keep=keep, spare=spare)
        for gone in before:
            if gone.spare and gone.digest in evicted:
                self._drop(gone.digest)
        self._host.pop(digest, None)
        self._host[digest] = rows
        self._view(slot).copy_(rows)
        if self.slab.is_cuda:
            # The copy must have landed before the next step reads the rows on another stream.
            torch.cuda.synchronize(self.slab.device)
        self._sums[digest] = _checksum(rows)
        self._trim()
        return evicted

    def _own(self, content: Content) -> torch.Tensor:
        """What this worker holds of a content: all rows, or its heads' keys and values."""
        if content.kind == "prefix":
            if self.heads is None:
                msg = "This server takes no keys and values; the start's log says why."
                raise BadRequest(msg, code="prefix_not_served")
            return self.heads.of(content.tensor())
        if content.hidden_size != self.hidden_size:
            msg = (
                f"The tensor has hidden size {content.hidden_size}, "
                f"the model has {self.hidden_size}."
            )
            raise BadRequest(msg, code="artifact_wrong_hidden_size")
        return content.tensor()

    def _view(self, slot: Slot) -> torch.Tensor:
        """A resident payload, in its own shape."""
        shape = self._host[slot.digest].shape
        return self.slab[slot.start : slot.stop].view(-1)[: shape.numel()].view(shape)

    def _drop(self, digest: str) -> None:
        self._host.pop(digest, None)
        self._sums.pop(digest, None)

    def _trim(self) -> None:
        """Drop the oldest evicted tensors until they fit ``host_bytes``."""
        evicted = [digest for digest in self._host if not self.slots.find(digest)]
        total = sum(self._host[digest].nbytes for digest in evicted)
        for digest in evicted:
            if total <= self.host_bytes:
                return
            total -= self._host[digest].nbytes
            self._drop(digest)


def _checksum(rows: torch.Tensor) -> str:
    """SHA-256 of the rows' bytes, whatever their dtype."""
    return hashlib.sha256(rows.contiguous().cpu().view(torch.uint8).numpy().tobytes()).hexdigest()
