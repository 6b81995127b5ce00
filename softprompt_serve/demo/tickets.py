"""The demo's labelled support tickets: a small seeded generator and its committed output.

``wording.toml`` holds hand-written sentences; this module combines them (greeting, lead-in, an
aside that names *another* topic, the actual request, a closing, noise) into one JSON line per
ticket: ``{"id", "text", "label", "split"}``. The splits share no request sentence: ``test`` has
other wordings than ``train``, ``ood`` other industries and styles as well.

``python -m softprompt_serve.demo.tickets`` writes ``data/{train,test,ood}.jsonl``;
``--check`` regenerates them in memory and compares byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

T = TypeVar("T")

DATASET: Final = "softprompt-serve/demo-tickets"
DATASET_VERSION: Final = "1"
SEED: Final = 20_240
DATA: Final = Path(__file__).parent / "data"
LABELS: Final = (
    "billing",
    "shipping",
    "returns",
    "account",
    "technical",
    "sales",
    "cancel",
    "feedback",
)
PER_LABEL: Final = {"train": 60, "test": 20, "ood": 16}
"""Tickets of each label in each split; eight labels make 480, 160 and 128."""

_CHOICE = re.compile(r"\[([^\[\]]*\|[^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Ticket:
    """One labelled ticket.

    Attributes:
        id: unique over all splits, such as ``train-0017``.
        text: what the customer wrote; the whole user message.
        label: one of :data:`LABELS`.
        split: ``train``, ``test`` or ``ood``.
    """

    id: str
    text: str
    label: str
    split: str


class Writer:
    """Expands wordings with one seeded random stream.

    Only ``Random.random`` is used: its sequence is guaranteed across Python versions, that of
    ``choice`` and ``shuffle`` is not.
    """

    def __init__(self, wording: dict[str, Any], seed: int) -> None:
        self._slots: dict[str, list[str]] = wording["slots"]
        self._random = random.Random(seed)

    def chance(self, probability: float) -> bool:
        """Whether something of this probability happens now."""
        return self._random.random() < probability

    def pick(self, options: Sequence[str]) -> str:
        """One of ``options``, uniformly."""
        return options[int(self._random.random() * len(options))]

    def expand(self, pattern: str) -> str:
        """Fill the ``[a|b]`` choices, then the ``{slot}``s, of one wording."""
        chosen = _CHOICE.sub(lambda m: self.pick(m[1].split("|")), pattern)
        return _SLOT.sub(lambda m: self.pick(self._slots[m[1]]), chosen)

    def shuffled(self, things: Iterable[T]) -> list[T]:
        """The things in a random order."""
        return sorted(things, key=lambda _: self._random.random())

    def misspell(self, text: str, rate: float) -> str:
        """Swap or drop letters inside words of four letters and more, ``rate`` of the words."""
        words = text.split(" ")
        for i, word in enumerate(words):
            if len(word) >= _MISSPELLABLE and word.isalpha() and self.chance(rate):
                at = 1 + int(self._random.random() * (len(word) - 2))
                tail = word[at + 1 :]
                words[i] = word[:at] + (
                    tail[:1] + word[at] + tail[1:] if self.chance(0.5) else tail
                )
        return " ".join(words)


_MISSPELLABLE = 4


def read_wording() -> dict[str, Any]:
    """The hand-written sentences of ``data/wording.toml``."""
    return tomllib.loads((DATA / "wording.toml").read_text(encoding="utf-8"))


def generate() -> dict[str, list[Ticket]]:
    """All splits, freshly made; the same at each call and on each machine."""
    wording = read_wording()
    splits = {}
    for offset, split in enumerate(PER_LABEL):
        writer = Writer(wording, SEED + offset)
        tickets = writer.shuffled(_tickets(writer, wording[split], split))
        splits[split] = [
            Ticket(f"{split}-{i:04d}", t.text, t.label, t.split) for i, t in enumerate(tickets)
        ]
    return splits


def _tickets(writer: Writer, table: dict[str, Any], split: str) -> Iterator[Ticket]:
    compose = _compose_ood if split == "ood" else _compose
    for label in LABELS:
        cores = table["core"][label]
        seen: set[str] = set()
        while len(seen) < PER_LABEL[split]:
            # Each request sentence is used about equally often.
            text = compose(writer, table, label, cores[len(seen) % len(cores)])
            if text not in seen:
                seen.add(text)
                yield Ticket("", text, label, split)


def _aside(writer: Writer, table: dict[str, Any], label: str) -> str:
    return writer.expand(
        writer.pick(table["aside"][writer.pick([x for x in LABELS if x != label])])
    )


def _compose(writer: Writer, table: dict[str, Any], label: str, core: str) -> str:
    parts = [writer.expand(core)]
    if writer.chance(0.4):
        parts.insert(int(writer.chance(0.5)), _aside(writer, table, label))
    if writer.chance(0.25):
        parts.insert(0, writer.expand(writer.pick(table["lead"])))
    if writer.chance(0.5):
        parts.insert(0, writer.pick(table["open"]))
    if writer.chance(0.4):
        parts.append(writer.expand(writer.pick(table["close"])))
    text = " ".join(parts)
    if writer.chance(0.1):
        text = text.lower()
    return writer.misspell(text, 0.15) if writer.chance(0.15) else text


def _compose_ood(writer: Writer, table: dict[str, Any], label: str, core: str) -> str:
    text = writer.expand(core)
    if writer.chance(0.3):
        text += " " + _aside(writer, table, label)
    match writer.pick(table["styles"]):
        case "chat":
            return writer.pick(table["chat"]) + text.lower() + writer.pick(table["chat_end"])
        case "typos":
            return writer.misspell(text.lower(), 0.5)
        case "forward":
            return writer.expand(writer.pick(table["forward"])) + text
        case _:
            return text.upper() + "!!!"


def serialize(tickets: Iterable[Ticket]) -> bytes:
    """The JSONL bytes of one split."""
    return "".join(json.dumps(asdict(t), ensure_ascii=False) + "\n" for t in tickets).encode()


def load(split: str) -> list[Ticket]:
    """The committed tickets of one split.

    Raises:
        FileNotFoundError: there is no such split.
    """
    lines = (DATA / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [Ticket(**json.loads(line)) for line in lines]


def sha256(split: str) -> str:
    """Hex SHA-256 of a committed split's file, as release records name it."""
    return hashlib.sha256((DATA / f"{split}.jsonl").read_bytes()).hexdigest()


def main(
    check: Annotated[  # noqa: FBT002 - typer makes a flag of it
        bool, typer.Option("--check", help="Compare with the committed files; write nothing.")
    ] = False,
) -> None:
    """Write the data set, or check that the committed one is what this code makes."""
    stale = []
    for split, tickets in generate().items():
        path, fresh = DATA / f"{split}.jsonl", serialize(tickets)
        if not check:
            path.write_bytes(fresh)
        elif not path.is_file() or path.read_bytes() != fresh:
            stale.append(path.name)
        typer.echo(f"{path.name}: {len(tickets)} tickets, {len(fresh)} bytes", err=True)
    if stale:
        typer.echo(
            f"differs from what the generator makes: {', '.join(stale)}; run "
            "`python -m softprompt_serve.demo.tickets` and commit the result",
            err=True,
        )
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
