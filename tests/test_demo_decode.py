"""Decoding of the demo's versions with plain Transformers, on a tiny model."""

from __future__ import annotations

import peft
import pytest
import torch
from fire.caches import keys_in
from tiny_llama import END, tiny_llama
from transformers import LlamaForCausalLM

from softprompt_serve.demo.decode import MAX_NEW_TOKENS, after_prefix, after_rows

ROWS = [[3, 4, 5], [6, 7, 8, 9, 10, 11, 12], [13]]


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return tiny_llama(64).eval()


@pytest.fixture(scope="module")
def tuned(model: LlamaForCausalLM) -> peft.PeftModel:
    torch.manual_seed(1)
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    return peft.get_peft_model(model, config).eval()


def prefix_of(tuned: peft.PeftModel) -> torch.Tensor:
    return keys_in(tuned.get_prompt(batch_size=1)).detach()


def test_tokens_after_a_prefix_are_those_that_peft_generates(
    model: LlamaForCausalLM, tuned: peft.PeftModel
) -> None:
    found = after_prefix(model, ROWS, prefix_of(tuned), END)
    for row, tokens in zip(ROWS, found, strict=True):
        wanted = tuned.generate(
            input_ids=torch.tensor([row]),
            attention_mask=torch.ones(1, len(row)).long(),
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
        )[0, len(row) :]
        assert tokens[: len(wanted)].tolist() == wanted.tolist()
        assert set(tokens[len(wanted) :].tolist()) <= {END}


def test_a_prefix_changes_what_is_said(model: LlamaForCausalLM, tuned: peft.PeftModel) -> None:
    found = after_prefix(model, ROWS, prefix_of(tuned), END)
    assert found.tolist() != after_rows(model, ROWS, None).tolist()
