"""Where a request's tokens lie in the KV cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence


def slots_of(block_ids: Sequence[int], block: int, first: int, stop: int) -> torch.Tensor:
    """Cache slots ``[stop - first]`` of a request's positions ``first : stop``.

    Args:
        block_ids: the request's blocks, in order.
        block: tokens of each.
        first: the first position.
        stop: one past the last.
    """
    positions = torch.arange(first, stop)
    return torch.tensor(block_ids)[positions // block] * block + positions % block
