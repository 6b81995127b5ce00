"""A Llama of two layers and random weights, large enough for answers to depend on what was asked."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

END = 2
"""The id that ends an answer."""


def tiny_llama(vocabulary: int) -> LlamaForCausalLM:
    """The same weights each time, for so many token ids."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        eos_token_id=END,
        pad_token_id=END,
    )
    return LlamaForCausalLM(config)
