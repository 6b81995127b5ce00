"""Which of a model's keys and values one worker holds: tensor parallelism splits the heads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from softprompt_serve.errors import BadRequest

if TYPE_CHECKING:
    import torch

    from softprompt_serve.artifact import KvShape


@dataclass(frozen=True, slots=True)
class Heads:
    """A worker's part of ``[layers, 2, n, kv_heads, head_dim]``.

    Attributes:
        whole: the model's.
        first: the worker's first head.
        count: how many it holds.
    """

    whole: KvShape
    first: int
    count: int

    @classmethod
    def of_rank(cls, whole: KvShape, *, rank: int = 0, ranks: int = 1) -> Heads:
        """What a rank holds; ranks beyond the number of heads share them, as the model's layers do."""
        count = max(1, whole.kv_heads // ranks)
        first = rank * count if whole.kv_heads >= ranks else rank // (ranks // whole.kv_heads)
        return cls(whole, first, count)

    @property
    def values_per_token(self) -> int:
        """Numbers that one token's keys and values are on this worker."""
        return math.prod(self.whole.of(1)) // self.whole.kv_heads * self.count

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """The worker's part of keys and values ``[layers, 2, n, kv_heads, head_dim]``.

        Raises:
            BadRequest: ``artifact_wrong_kv_shape``.
        """
        whole = self.whole
        if tuple(tensor.shape) != whole.of(tensor.shape[2]):
            msg = (
                f"The keys and values have shape {list(tensor.shape)}, the model's have "
                f"[{whole.layers}, 2, n, {whole.kv_heads}, {whole.head_dim}]."
            )
            raise BadRequest(msg, code="artifact_wrong_kv_shape")
        return tensor[:, :, :, self.first : self.first + self.count].contiguous()
