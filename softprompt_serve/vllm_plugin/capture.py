"""Catch the keys and values that the model computes for a request's first n tokens.

For one step the cache update of each layer is watched on its way, on this worker's own objects. What
is caught goes to the bank: the start's proof loads it again and compares the answers, and a soft
version that is served a lot needs no prefill any more (``compiling.py``).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from softprompt_serve.errors import SoftpromptError
from softprompt_serve.vllm_plugin.blocks import slots_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from softprompt_serve.vllm_plugin.overlay import Overlay

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Capture:
    """The keys and values of a request's first ``rows`` tokens, for the bank under a new name."""

    request_id: str
    digest: str
    rows: int
    block_ids: tuple[int, ...]


@dataclass
class _Caught:
    what: Capture
    slots: torch.Tensor
    parts: list[tuple[torch.Tensor, torch.Tensor] | None]


class Capturing:
    """The captures of one step."""

    def __init__(self) -> None:
        """None is under way."""
        self._layers: Sequence[Any] = ()
        self._caught: list[_Caught] = []

    def begin(self, captures: Sequence[Capture], layers: Sequence[Any], block: int) -> None:
        """Watch the cache updates of ``layers`` for what goes to the requests' blocks."""
        for what in captures:
            if len(what.block_ids) * block < what.rows:
                continue  # its first chunk ends before: nothing of it is kept
            slots = slots_of(what.block_ids, block, 0, what.rows)
            self._caught.append(_Caught(what, slots, [None] * len(layers)))
        self._layers = layers
        for index, layer in enumerate(layers):
            layer.impl.do_kv_cache_update = partial(
                self._watch, index, layer.impl.do_kv_cache_update
            )

    def end(self, overlay: Overlay) -> None:
        """Stop watching, and give the bank what is whole."""
        if not self._layers:
            return
        for layer in self._layers:
            del layer.impl.do_kv_cache_update  # the class' own again
        self._layers = ()
        caught, self._caught = self._caught, []
        for one in caught:
            if any(part is None for part in one.parts) or overlay.bank is None:
                continue
            whole = torch.stack([torch.stack(part) for part in one.parts if part is not None])
            try:
                overlay.bank.store(one.what.digest, whole.to(overlay.bank.slab.dtype))
            except SoftpromptError as error:
                logger.warning("Captured keys and values are not kept: %s", error.message)

    def _watch(
        self, index: int, update: Callable[..., None], layer: Any, *written: torch.Tensor
    ) -> None:
        """Stand before ``do_kv_cache_update(layer, key, value, kv_cache, slot_mapping)``."""
        key, value, _, slot_mapping = written
        for one in self._caught:
            where = (slot_mapping[:, None] == one.slots.to(slot_mapping.device)).nonzero()
            if len(where) == one.what.rows:
                rows = where[where[:, 1].argsort(), 0]
                one.parts[index] = (key[rows].clone(), value[rows].clone())
        update(layer, *written)
