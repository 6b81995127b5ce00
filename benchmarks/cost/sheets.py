"""What is measured: ways to be served, the lengths and numbers of requests, sheet by sheet. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Final

PLAIN: Final = "plain tokens"
AGAIN: Final = "plain tokens, again"
OVERLAY: Final = "overlay"
NATIVE: Final = "native prompt_embeds, HTTP"
ENGINE: Final = "native prompt_embeds, in process"
PURE: Final = "plain tokens, plain vLLM"
HARD: Final = "hard prompt"
LORA: Final = "LoRA, plain vLLM"
PEFT: Final = "Transformers + PEFT"
RIVALS: Final = (PLAIN, OVERLAY, NATIVE, ENGINE, PURE, HARD, LORA, PEFT)
ORDER: Final = (*RIVALS, AGAIN)


@dataclass(frozen=True, slots=True)
class Case:
    """One cell of a sheet.

    Attributes:
        rows: virtual tokens, n.
        visible: visible tokens.
        concurrency: callers, each of which asks again when it was answered.
        rounds: how often every variant takes its turn.
    """

    rows: int
    visible: int
    concurrency: int
    rounds: int


@dataclass(frozen=True, slots=True)
class Sheet:
    """A question: which variants, and every combination of lengths and callers.

    Attributes:
        title: what varies.
        rounds: as many as ``concurrency``, or one for all.
        output: generated tokens.
        variants: those that take turns; the first is what the others are divided by.
        shape: a model of random weights (:data:`SHAPES`) instead of the demo model.
    """

    title: str
    rows: tuple[int, ...]
    visible: tuple[int, ...]
    concurrency: tuple[int, ...]
    rounds: tuple[int, ...]
    variants: tuple[str, ...]
    output: int = 16
    shape: str = ""

    def cases(self) -> list[Case]:
        """Every combination.

        Raises:
            ValueError: the rounds don't fit.
        """
        rounds = self.rounds * len(self.concurrency) if len(self.rounds) == 1 else self.rounds
        callers = list(zip(self.concurrency, rounds, strict=True))
        return [
            Case(rows, visible, at_once, times)
            for rows, visible, (at_once, times) in product(self.rows, self.visible, callers)
        ]

    def label(self, case: Case) -> str:
        """What tells a case from the others of this sheet; nothing, if it is alone."""
        parts = [
            (self.rows, f"{case.rows} virtual"),
            (self.visible, f"{case.visible:,} visible"),
            (self.concurrency, f"{case.concurrency} at once"),
        ]
        return ", ".join(said for values, said in parts if len(values) > 1)


_WIDE: Final = {"hidden_size": 4096, "head_dim": 128}
SHAPES: Final = {
    "wide": _WIDE
    | {
        "intermediate_size": 4096,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_hidden_layers": 2,
    },
    # Embeddings as large as an 8B model's, and little to compute with them.
    "thin": _WIDE
    | {
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "num_hidden_layers": 1,
    },
}
"""What changes in the demo model's configuration."""

SHEETS: Final = {
    # What differs between the first and the last is noise: they are the same.
    "twice": Sheet(
        title="Overlay and plain tokens, many rounds",
        rows=(20,),
        visible=(100,),
        concurrency=(16,),
        rounds=(10,),
        variants=(PLAIN, OVERLAY, AGAIN),
    ),
    "callers": Sheet(
        title="From one caller to 16",
        rows=(20,),
        visible=(100,),
        concurrency=(1, 4, 16),
        rounds=(3, 3, 2),
        variants=RIVALS,
        output=8,
    ),
    "crowd": Sheet(
        title="64 callers",
        rows=(20,),
        visible=(100,),
        concurrency=(64,),
        rounds=(2,),
        variants=(PLAIN, OVERLAY, NATIVE),
        output=8,
    ),
    "virtual": Sheet(
        title="From 8 virtual tokens to 256",
        rows=(8, 20, 100, 256),
        visible=(32,),
        concurrency=(4,),
        rounds=(3,),
        variants=(PLAIN, OVERLAY, HARD),
        output=8,
    ),
    "visible": Sheet(
        title="From 32 visible tokens to 1,000",
        rows=(20,),
        visible=(32, 250, 1000),
        concurrency=(4,),
        rounds=(3,),
        variants=(PLAIN, OVERLAY, NATIVE),
        output=4,
    ),
    "wide": Sheet(
        title="Hidden size 4096, 2 layers, random weights",
        rows=(20,),
        visible=(1000,),
        concurrency=(1, 4),
        rounds=(4,),
        variants=(PLAIN, OVERLAY, NATIVE, ENGINE),
        output=4,
        shape="wide",
    ),
    "transport": Sheet(
        title="Hidden size 4096, one thin layer, random weights",
        rows=(20,),
        visible=(1000,),
        concurrency=(1, 4),
        rounds=(5,),
        variants=(PLAIN, OVERLAY, NATIVE, ENGINE),
        output=4,
        shape="thin",
    ),
}
