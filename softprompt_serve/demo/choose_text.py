"""Compare the candidate texts for the hard prompt on a slice of the training tickets.

``python -m softprompt_serve.demo.choose_text --model DIR`` asks the plain base model, greedily,
with each text of ``candidates.toml`` as system message, and prints a markdown table. Test and
out-of-distribution tickets play no part in the choice.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from softprompt_serve.demo import tickets
from softprompt_serve.demo.decode import answers, load_base
from softprompt_serve.demo.scoring import markdown, score

CANDIDATES = Path(__file__).parent / "candidates.toml"


def read_candidates() -> dict[str, str]:
    """The candidate texts by name, without surrounding blank lines."""
    table = tomllib.loads(CANDIDATES.read_text(encoding="utf-8"))
    return {name: entry["text"].strip() for name, entry in table.items()}


def main(
    model: Annotated[Path, typer.Option(help="Directory that `demo.prepare` made.")],
    count: Annotated[int, typer.Option(help="How many training tickets to ask.")] = 120,
    only: Annotated[list[str] | None, typer.Option(help="Only these candidates.")] = None,
) -> None:
    """Print the accuracy of each candidate on the last training tickets."""
    base, tokenizer = load_base(model)
    asked = tickets.load("train")[-count:]
    candidates = {k: v for k, v in read_candidates().items() if not only or k in only}
    rows = []
    with Progress(console=Console(stderr=True)) as progress:
        for name, text in candidates.items():
            task = progress.add_task(name, total=len(asked))
            given = answers(
                base,
                tokenizer,
                [t.text for t in asked],
                system=text,
                advance=lambda done, task=task: progress.advance(task, done),  # type: ignore[misc]
            )
            result = score(zip(given, (t.label for t in asked), strict=True))
            progress.console.print(f"{name}: {result.cell()}, such as {given[:8]}")
            rows.append([name, str(len(tokenizer(text)["input_ids"])), result.cell()])
    typer.echo(markdown(["text", "tokens", f"accuracy on {count} training tickets"], rows))


if __name__ == "__main__":
    typer.run(main)
