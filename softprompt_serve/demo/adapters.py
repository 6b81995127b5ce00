"""The PEFT adapters that the demo trains: how each one begins, what it loses, how it is saved."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from peft import (
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    PromptTuningInit,
    TaskType,
    get_peft_model,
    set_peft_model_state_dict,
)
from peft.tuners.cartridge.utils import initialize_kv_prefix_from_past_key_values
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch.nn.functional import cross_entropy

from softprompt_serve.demo.decode import embed, load_base, pad, render
from softprompt_serve.demo.recipes import INSTRUCTION, LORA_RANK, VIRTUAL_TOKENS, Recipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROMPTS: Final = Path(__file__).parent / "prompts"
WEIGHTS: Final = "adapter_model.safetensors"
CONFIG: Final = "adapter_config.json"
ATTENTION: Final = ("q_proj", "k_proj", "v_proj", "o_proj")
"""What a LoRA changes of each layer."""


def wrap(directory: Path, recipe: Recipe) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """The frozen base with what the recipe starts from, seeded.

    Raises:
        FileNotFoundError: the version to start from has not been trained.
    """
    torch.manual_seed(recipe.seed)
    model, tokenizer = load_base(directory)
    if recipe.method == "prefix_tuning":
        return _begin_prefix(model, tokenizer), tokenizer
    if recipe.method == "lora":
        return _begin_lora(model), tokenizer
    if recipe.start:
        return _resume(model, recipe.start), tokenizer
    config = PromptTuningConfig(
        task_type=TaskType.CAUSAL_LM,
        num_virtual_tokens=VIRTUAL_TOKENS,
        prompt_tuning_init=PromptTuningInit.TEXT,
        prompt_tuning_init_text=INSTRUCTION,
        tokenizer_name_or_path=str(directory),
    )
    return get_peft_model(model, config), tokenizer


def _resume(model: PreTrainedModel, version: str) -> PeftModel:
    config = PromptTuningConfig(
        task_type=TaskType.CAUSAL_LM,
        num_virtual_tokens=VIRTUAL_TOKENS,
        prompt_tuning_init=PromptTuningInit.RANDOM,
    )
    tuned = get_peft_model(model, config)
    set_peft_model_state_dict(tuned, load_file(PROMPTS / f"support-{version}" / WEIGHTS))
    return tuned


def _begin_prefix(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PeftModel:
    """Keys and values that the base itself has for the instruction.

    From random ones, which look like no token's, the model's attention has to be found first, and
    that takes many times the steps.
    """
    ids: list[int] = tokenizer(INSTRUCTION)["input_ids"]
    ids = (ids * (1 + VIRTUAL_TOKENS // len(ids)))[:VIRTUAL_TOKENS]
    with torch.inference_mode():
        cache = model(torch.tensor([ids]), use_cache=True).past_key_values
        legacy = [(layer.keys, layer.values) for layer in cache.layers]
    config = PrefixTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=VIRTUAL_TOKENS)
    tuned = get_peft_model(model, config)
    initialize_kv_prefix_from_past_key_values(tuned, past_key_values=legacy)
    return tuned


def _begin_lora(model: PreTrainedModel) -> PeftModel:
    """Changes of the attention's projections that change nothing yet, as LoRA begins."""
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=LORA_RANK,
        lora_alpha=2 * LORA_RANK,
        target_modules=list(ATTENTION),
    )
    return get_peft_model(model, config)


def batch_loss(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, batch: Sequence[tuple[str, str]]
) -> torch.Tensor:
    """Mean cross entropy of the target tokens: the label's, then the end of the turn.

    Only target positions go through the output head: over 49152 tokens it is the costly part.
    Right padding needs no mask, as a causal model's targets never see what comes after them.
    """
    base: Any = model.get_base_model()
    rows, targets = [], []
    for text, label in batch:
        target = [*tokenizer(label)["input_ids"], tokenizer.eos_token_id]
        rows.append(render(tokenizer, text) + target)
        targets.append(target)
    hidden = _hidden(model, base, rows)
    # The token at position p is predicted from the hidden state at p - 1.
    states = [
        hidden[i, len(row) - len(target) - 1 : len(row) - 1]
        for i, (row, target) in enumerate(zip(rows, targets, strict=True))
    ]
    logits = base.lm_head(torch.cat(states))
    return cross_entropy(logits, torch.tensor([t for target in targets for t in target]))


def _hidden(model: PeftModel, base: Any, rows: list[list[int]]) -> torch.Tensor:
    """Last hidden states of the visible tokens ``[batch, longest, hidden_size]``."""
    config = model.peft_config["default"]
    if isinstance(config, PromptTuningConfig):
        prompt = model.get_prompt(batch_size=1)[0]
        embeds, _ = embed(base, rows, prompt, left=False)
        found: torch.Tensor = base.model(inputs_embeds=embeds).last_hidden_state[:, len(prompt) :]
    else:
        longest = max(len(row) for row in rows)
        padded = [pad(torch.tensor(row), longest - len(row), left=False) for row in rows]
        before = isinstance(config, PrefixTuningConfig)
        cache = model.get_prompt(batch_size=len(rows)) if before else None
        found = base.model(input_ids=torch.stack(padded), past_key_values=cache).last_hidden_state
    return found


def save(model: PeftModel, out: Path, base_model: str, *, half: bool = False) -> None:
    """Write the two adapter files, with portable names in place of this machine's paths.

    With ``half`` the tensor is rounded to float16: of values below 65,504 it keeps 11 significant
    bits, where bfloat16 keeps 8.
    """
    config: Any = model.peft_config["default"]
    config.base_model_name_or_path = base_model
    if hasattr(config, "tokenizer_name_or_path"):
        config.tokenizer_name_or_path = base_model
    config.inference_mode = True
    if hasattr(config, "target_modules"):  # a set, and so in another order each time
        config.target_modules = sorted(config.target_modules)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        # "auto" would look the base model up on the hub.
        model.save_pretrained(folder, save_embedding_layers=False)
        shutil.copyfile(Path(folder) / CONFIG, out / CONFIG)
        tensors = load_file(Path(folder) / WEIGHTS)
    if half:
        tensors = {name: tensor.to(torch.float16) for name, tensor in tensors.items()}
    # As PEFT writes them.
    (out / WEIGHTS).write_bytes(to_bytes(tensors, metadata={"format": "pt"}))
