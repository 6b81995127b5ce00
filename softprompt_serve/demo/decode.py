"""Rendering and greedy decoding of demo tickets with plain Transformers.

The token ids are those vLLM's chat completions make of one user message: the model's own chat
template with the generation prompt. Virtual tokens come before everything, as PEFT concatenates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_NEW_TOKENS = 8
"""Enough for every label and its end-of-turn token; also what ``evaluate`` asks for."""


def load_base(directory: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The frozen demo base model in float32, in eval mode, and its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(str(directory))
    model = AutoModelForCausalLM.from_pretrained(str(directory), dtype=torch.float32)
    return model.eval().requires_grad_(requires_grad=False), tokenizer


def render(tokenizer: PreTrainedTokenizerBase, text: str, system: str | None = None) -> list[int]:
    """Token ids of one user message (after ``system``, if given) up to the assistant's turn."""
    messages = [{"role": "user", "content": text}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    encoded: Any = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    ids: list[int] = encoded["input_ids"]
    return ids


def embed(
    model: PreTrainedModel, rows: Sequence[list[int]], virtual: torch.Tensor | None, *, left: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded input embeddings ``[batch, n + longest, hidden_size]`` and their mask.

    Args:
        model: gives the embedding table.
        rows: visible token ids, one list per example.
        virtual: ``[n, hidden_size]`` put before each row, or None.
        left: pad before the virtual tokens (for generation), else behind the row.
    """
    table: Any = model.get_input_embeddings()
    pieces = []
    for row in rows:
        visible = table(torch.tensor(row))
        pieces.append(visible if virtual is None else torch.cat([virtual, visible]))
    longest = max(len(piece) for piece in pieces)
    embeds = torch.stack([_pad(p, longest - len(p), left=left) for p in pieces])
    mask = torch.stack(
        [_pad(torch.ones(len(p), dtype=torch.long), longest - len(p), left=left) for p in pieces]
    )
    return embeds, mask


def _pad(piece: torch.Tensor, missing: int, *, left: bool) -> torch.Tensor:
    zeros = piece.new_zeros((missing, *piece.shape[1:]))
    return torch.cat([zeros, piece] if left else [piece, zeros])


@torch.inference_mode()
def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    system: str | None = None,
    virtual: torch.Tensor | None = None,
    batch_size: int = 32,
    advance: Callable[[int], object] = lambda _done: None,
) -> list[str]:
    """Greedy answers to ``texts``, in order; ``advance`` is told how many each batch finished."""
    rows = [render(tokenizer, text, system) for text in texts]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    found: dict[int, str] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        embeds, mask = embed(model, [rows[i] for i in batch], virtual, left=True)
        tokens = model.generate(  # type: ignore[operator]
            inputs_embeds=embeds,
            attention_mask=mask,
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
        )
        found.update(
            zip(batch, tokenizer.batch_decode(tokens, skip_special_tokens=True), strict=True)
        )
        advance(len(batch))
    return [found[i] for i in range(len(rows))]
