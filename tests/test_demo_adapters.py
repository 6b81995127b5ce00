"""The demo's adapters as they begin and as they are saved, on a tiny model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tiny_llama import tiny_llama
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from softprompt_serve.artifact import KvShape, Limits, learned_from_path
from softprompt_serve.demo.adapters import CONFIG, batch_loss, save, wrap
from softprompt_serve.demo.decode import after_prefix, after_rows
from softprompt_serve.demo.recipes import INSTRUCTION, LORA, LORA_RANK, RECIPES, VIRTUAL_TOKENS

if TYPE_CHECKING:
    from pathlib import Path

LIMITS = Limits(32, "float32", 64, 128, 100, kv=KvShape(layers=2, kv_heads=2, head_dim=8))
TEMPLATE = (
    "{% for m in messages %}{{ m.content }} {% endfor %}{% if add_generation_prompt %}:{% endif %}"
)
ROWS = [[5, 6, 7], [8, 9]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's directory: two layers, and a word for each character."""
    folder = tmp_path_factory.mktemp("base")
    words = ["<unk>", "<s>", "</s>", *map(chr, range(33, 127))]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="</s>", chat_template=TEMPLATE
    )
    fast.save_pretrained(folder)
    tiny_llama(len(words)).save_pretrained(folder)
    return folder


def test_a_prefix_begins_as_the_instruction_itself(base: Path, tmp_path: Path) -> None:
    tuned, tokenizer = wrap(base, RECIPES["v4"])
    save(tuned, tmp_path, "base")
    prefix = learned_from_path(tmp_path, limits=LIMITS).content.tensor()
    ids = tokenizer(INSTRUCTION)["input_ids"][:VIRTUAL_TOKENS]
    model: Any = tuned.get_base_model()
    found = after_prefix(model, ROWS, prefix, tokenizer.eos_token_id)
    wanted = after_rows(model, [ids + row for row in ROWS], None)
    assert found[:, : wanted.shape[1]].tolist() == wanted.tolist()


@pytest.mark.parametrize("version", ["v2", "v4", LORA])
def test_only_what_is_learned_gets_a_gradient_and_a_step_against_it_helps(
    base: Path, version: str
) -> None:
    tuned, tokenizer = wrap(base, RECIPES[version])
    every = [p for p in tuned.parameters() if p.requires_grad]
    # Of a LoRA: two for each of four projections in each of two layers.
    assert len(every) == (16 if version == LORA else 1)
    batch = [("I was charged twice", "billing"), ("Where is it?", "shipping")]
    before = batch_loss(tuned, tokenizer, batch)
    before.backward()
    with torch.no_grad():
        for learned in every:
            assert learned.grad is not None
            learned.sub_(1e-3 * learned.grad)
    assert batch_loss(tuned, tokenizer, batch) < before


def test_the_loss_after_a_prefix_is_the_one_that_peft_computes(base: Path) -> None:
    tuned, tokenizer = wrap(base, RECIPES["v4"])
    text, label = "Where is it?", "shipping"
    target = [*tokenizer(label)["input_ids"], tokenizer.eos_token_id]
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True
    )["input_ids"]
    ids = torch.tensor([asked + target])
    labels = torch.tensor([[-100] * len(asked) + target])
    wanted = tuned(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
    torch.testing.assert_close(batch_loss(tuned, tokenizer, [(text, label)]), wanted)


def test_half_a_prefix_is_kept_in_float16_and_near(base: Path, tmp_path: Path) -> None:
    tuned, _ = wrap(base, RECIPES["v4"])
    save(tuned, tmp_path / "whole", "base")
    save(tuned, tmp_path / "half", "base", half=True)
    whole = learned_from_path(tmp_path / "whole", limits=LIMITS).content.tensor()
    half = learned_from_path(tmp_path / "half", limits=LIMITS).content.tensor()
    assert half.dtype is torch.float16
    torch.testing.assert_close(half.float(), whole, rtol=2**-11, atol=1e-7)


def test_a_lora_begins_as_the_base_and_its_files_say_nothing_of_where_or_in_which_order(
    base: Path, tmp_path: Path
) -> None:
    tuned, tokenizer = wrap(base, RECIPES[LORA])
    batch = [("Where is it?", "shipping")]
    with tuned.disable_adapter():
        before = batch_loss(tuned, tokenizer, batch)
    torch.testing.assert_close(batch_loss(tuned, tokenizer, batch), before)
    save(tuned, tmp_path / "lora", "base", half=True)
    config = json.loads((tmp_path / "lora" / CONFIG).read_text())
    assert config["base_model_name_or_path"] == "base"
    assert config["target_modules"] == ["k_proj", "o_proj", "q_proj", "v_proj"]


def test_the_demo_models_lora_has_as_many_numbers_as_its_prefix() -> None:
    hidden, layers, keys = 576, 30, 3 * 64
    projections = [(hidden, hidden), (hidden, keys), (hidden, keys), (hidden, hidden)]
    lora = layers * LORA_RANK * sum(ins + outs for ins, outs in projections)
    assert lora == layers * 2 * VIRTUAL_TOKENS * keys
