"""Which keys and values a worker holds."""

from __future__ import annotations

import pytest
import torch

from softprompt_serve.artifact import KvShape
from softprompt_serve.bank.heads import Heads
from softprompt_serve.errors import BadRequest

LAYERS, HEADS, DIM = 2, 4, 3
WHOLE = KvShape(LAYERS, HEADS, DIM)


def whole(tokens: int = 5) -> torch.Tensor:
    return torch.randn(LAYERS, 2, tokens, HEADS, DIM)


def test_one_worker_holds_everything() -> None:
    tensor = whole()
    assert torch.equal(Heads.of_rank(WHOLE).of(tensor), tensor)


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_a_tokens_values_are_those_of_its_part(ranks: int) -> None:
    heads = Heads.of_rank(WHOLE, ranks=ranks)
    assert heads.values_per_token == heads.of(whole(1)).numel()


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_the_heads_out_in_order(ranks: int) -> None:
    tensor = whole()
    parts = [Heads.of_rank(WHOLE, rank=rank, ranks=ranks).of(tensor) for rank in range(ranks)]
    assert torch.equal(torch.cat(parts, dim=3), tensor)
    assert all(part.is_contiguous() for part in parts)


def test_more_ranks_than_heads_share_each_head() -> None:
    tensor = whole()
    firsts = [Heads.of_rank(WHOLE, rank=r, ranks=8).first for r in range(8)]
    assert firsts == [0, 0, 1, 1, 2, 2, 3, 3]
    assert torch.equal(Heads.of_rank(WHOLE, rank=3, ranks=8).of(tensor), tensor[:, :, :, 1:2])


@pytest.mark.parametrize(
    "shape", [(3, 2, 5, 4, 3), (2, 1, 5, 4, 3), (2, 2, 5, 2, 3), (2, 2, 5, 4, 4)]
)
def test_another_models_keys_and_values_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadRequest, match=r"the model's have \[2, 2, n, 4, 3\]") as caught:
        Heads.of_rank(WHOLE).of(torch.zeros(shape))
    assert caught.value.code == "artifact_wrong_kv_shape"
