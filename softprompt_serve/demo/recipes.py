"""How the demo's trained versions are made, as data, and the tickets that each one learns from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from softprompt_serve.demo import tickets

if TYPE_CHECKING:
    from collections.abc import Iterator

Method = Literal["prompt_tuning", "prefix_tuning", "lora"]

VIRTUAL_TOKENS: Final = 20

LORA_RANK: Final = 2
"""Of the attention's four projections: as many numbers as :data:`VIRTUAL_TOKENS` keys and values."""

LORA: Final = "lora"
"""The recipe that makes no version, but what versions are compared with."""

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
        start: the version whose rows training continues from; None starts from
            :data:`INSTRUCTION`: its embeddings, or the keys and values that the base has for it.
        batch_size: tickets per step.
        method: rows before the input, keys and values before every layer's, or changed weights.
        half: whether the tensor is kept in float16; it is trained in float32 all the same.
    """

    seed: int
    per_label: int
    epochs: int
    augment: bool
    learning_rate: float
    start: str | None = None
    batch_size: int = 8
    method: Method = "prompt_tuning"
    half: bool = False


RECIPES: Final = {
    "v2": Recipe(seed=2, per_label=30, epochs=5, augment=False, learning_rate=0.02),
    "v3": Recipe(seed=3, per_label=60, epochs=3, augment=True, learning_rate=0.02, start="v2"),
    # Fewer steps than v2 or v3 took.
    "v4": Recipe(
        seed=4,
        per_label=60,
        epochs=2,
        augment=True,
        learning_rate=0.02,
        method="prefix_tuning",
        half=True,
    ),
    # The tickets of v4 in the same order, as many steps, as many numbers.
    LORA: Recipe(
        seed=4,
        per_label=60,
        epochs=2,
        augment=True,
        learning_rate=0.002,
        method="lora",
        half=True,
    ),
}


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
