"""Which of a model's keys and values one worker holds: tensor parallelism splits the heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from softprompt_serve.errors import BadRequest

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Heads:
    """A worker's part of ``[layers, 2, n, kv_heads, head_dim]``.

    Attributes:
        layers: of the whole model.
        kv_heads: of the whole model.
        head_dim: of each head.
        first: the worker's first head.
        count: how many it holds.
    """

    layers: int
    kv_heads: int
    head_dim: int
    first: int = 0
    count: int = 0

    @classmethod
    def of_rank(
        cls, layers: int, kv_heads: int, head_dim: int, *, rank: int = 0, ranks: int = 1
    ) -> Heads:
        """What a rank holds; ranks beyond the number of heads share them, as the model's layers do."""
        count = max(1, kv_heads // ranks)
        first = rank * count if kv_heads >= ranks else rank // (ranks // kv_heads)
        return cls(layers, kv_heads, head_dim, first, count)

    def of(self, whole: torch.Tensor) -> torch.Tensor:
        """The worker's part of keys and values ``[layers, 2, n, kv_heads, head_dim]``.

        Raises:
            BadRequest: ``artifact_wrong_kv_shape``.
        """
        layers, two, _, heads, size = whole.shape
        if (layers, two, heads, size) != (self.layers, 2, self.kv_heads, self.head_dim):
            msg = (
                f"The keys and values have shape {list(whole.shape)}, the model's have "
                f"[{self.layers}, 2, n, {self.kv_heads}, {self.head_dim}]."
            )
            raise BadRequest(msg, code="artifact_wrong_kv_shape")
        return whole[:, :, :, self.first : self.first + self.count].contiguous()
