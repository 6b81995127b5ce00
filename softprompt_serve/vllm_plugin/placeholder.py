"""The token id that stands where virtual tokens go."""

from __future__ import annotations

from typing import Any

_RANK = 0.75


def placeholder_id(vllm_config: Any) -> int:
    """One in-vocabulary, non-special id, the same in every process of a deployment.

    Its embedding is never used: the overlay replaces it before the first layer. It is visible to
    penalties that count prompt tokens, hence an id deep in the vocabulary (three quarters up),
    where rare words live and special tokens, kept at either end, don't.
    """
    return int(vllm_config.model_config.get_vocab_size() * _RANK)
