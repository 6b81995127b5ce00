"""Checkpoints that are quick to serve: two layers of random weights, and the demo's tokenizer."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any, Final

import torch
from transformers import AutoConfig, AutoModelForCausalLM

if TYPE_CHECKING:
    from pathlib import Path

SHAPE: Final = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "head_dim": 32,
}
_FILES: Final = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def make(folder: Path, demo: Path, seed: int = 0, **changes: Any) -> Path:
    """Write the checkpoint; the same seed makes the same weights.

    ``changes`` are of the demo's configuration, such as ``model_type="qwen3"``. With a smaller
    ``vocab_size`` the tokenizer has its first tokens only, and a step is done in half the time.

    The weights are large enough for answers to depend on what was asked, and for one token to stand
    out among the others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        if (demo / name).exists():
            shutil.copy(demo / name, folder / name)
    given = json.loads((demo / "config.json").read_text()) | SHAPE | changes
    kind = given.pop("model_type")
    if kind != "llama":
        del given["architectures"]
    if "vocab_size" in changes:
        _cut(folder / "tokenizer.json", given["vocab_size"])
    config = AutoConfig.for_model(kind, **given)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.5 if "embed" in name else 1.5 * weight.shape[1] ** -0.5)
    model.save_pretrained(folder)
    return folder


def _cut(file: Path, size: int) -> None:
    """Leave a tokenizer its first tokens. Merges stand in the order of what they make."""
    told = json.loads(file.read_text())
    model = told["model"]
    model["vocab"] = {token: at for token, at in model["vocab"].items() if at < size}
    model["merges"] = [pair for pair in model["merges"] if "".join(pair) in model["vocab"]]
    file.write_text(json.dumps(told))
