"""Rendering and greedy decoding of demo tickets with plain Transformers.

The token ids are those vLLM's chat completions make of one user message: the model's own chat
template with the generation prompt. Virtual tokens come before everything, as PEFT concatenates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

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
    embeds = torch.stack([pad(p, longest - len(p), left=left) for p in pieces])
    mask = torch.stack(
        [pad(torch.ones(len(p), dtype=torch.long), longest - len(p), left=left) for p in pieces]
    )
    return embeds, mask


def pad(piece: torch.Tensor, missing: int, *, left: bool) -> torch.Tensor:
    """Add ``missing`` zeros before or behind."""
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
    prefix: torch.Tensor | None = None,
    batch_size: int = 32,
    advance: Callable[[int], object] = lambda _done: None,
) -> list[str]:
    """Greedy answers to ``texts``, in order.

    Args:
        model: from :func:`load_base`.
        tokenizer: likewise.
        texts: one user message each.
        system: a system message before each.
        virtual: rows ``[n, hidden_size]`` before each input, or None.
        prefix: keys and values ``[layers, 2, n, kv_heads, head_dim]`` before each, or None.
        batch_size: texts at a time, of similar length.
        advance: told how many each batch finished.
    """
    rows = [render(tokenizer, text, system) for text in texts]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    found: dict[int, str] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        asked = [rows[i] for i in batch]
        if prefix is None:
            tokens = after_rows(model, asked, virtual)
        else:
            tokens = after_prefix(model, asked, prefix, tokenizer.eos_token_id)
        found.update(
            zip(batch, tokenizer.batch_decode(tokens, skip_special_tokens=True), strict=True)
        )
        advance(len(batch))
    return [found[i] for i in range(len(rows))]


def after_rows(
    model: PreTrainedModel, rows: Sequence[list[int]], virtual: torch.Tensor | None
) -> torch.Tensor:
    """Greedy tokens ``[batch, MAX_NEW_TOKENS]`` at most, after ``virtual`` and each row."""
    embeds, mask = embed(model, rows, virtual, left=True)
    tokens: torch.Tensor = model.generate(  # type: ignore[operator]
        inputs_embeds=embeds,
        attention_mask=mask,
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,
    )
    return tokens


def after_prefix(
    model: PreTrainedModel, rows: Sequence[list[int]], prefix: torch.Tensor, end: int
) -> torch.Tensor:
    """Greedy tokens ``[batch, MAX_NEW_TOKENS]`` after a prefix and each row; ``end`` after an end.

    Step by step, as ``generate`` takes no cache that holds more than the input. Each row is padded
    between the prefix and its first token, which has position n all the same.
    """
    count, longest = len(rows), max(len(row) for row in rows)
    following = torch.stack([pad(torch.tensor(r), longest - len(r), left=True) for r in rows])
    seen = torch.stack([pad(torch.ones(len(r)).long(), longest - len(r), left=True) for r in rows])
    mask = torch.cat([torch.ones(count, prefix.shape[2]).long(), seen], dim=1)
    pairs = prefix.to(model.dtype).transpose(2, 3).unsqueeze(2).expand(-1, -1, count, -1, -1, -1)
    cache = DynamicCache([(keys, values) for keys, values in pairs])
    tokens = torch.full((count, 0), end)
    for _ in range(MAX_NEW_TOKENS):
        positions = mask.cumsum(dim=1)[:, -following.shape[1] :] - 1
        logits = model(
            input_ids=following,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            logits_to_keep=1,
        ).logits
        ended = (tokens == end).any(dim=1, keepdim=True)
        following = logits[:, -1].argmax(dim=-1, keepdim=True).masked_fill(ended, end)
        tokens = torch.cat([tokens, following], dim=1)
        mask = torch.cat([mask, torch.ones(count, 1).long()], dim=1)
    return tokens
