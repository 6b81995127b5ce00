"""Keys and values in Transformers' cache, in the layout of a prefix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import DynamicCache


def keys_in(cache: DynamicCache) -> torch.Tensor:
    """A cache's first sequence as ``[layers, 2, n, kv_heads, head_dim]``."""
    pairs = [torch.stack([layer.keys[0], layer.values[0]]) for layer in cache.layers]
    return torch.stack(pairs).transpose(2, 3).contiguous()
