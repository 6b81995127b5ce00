"""Measure the demo's versions through a served OpenAI endpoint.

``python -m softprompt_serve.demo.evaluate --url http://127.0.0.1:8000 --models
SmolLM2-135M-Instruct,support@v1,support@v2,support@v3`` asks every model every test and
out-of-distribution ticket, greedily, with the unchanged ``openai`` client, and prints accuracies
with 95 % Wilson intervals. A model is asked with the plain text of the ticket, so the base model
is told nothing of the task.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path  # noqa: TC003 - typer reads the annotation at run time
from typing import TYPE_CHECKING, Annotated, Final

import typer
from openai import AsyncOpenAI, OpenAIError
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from softprompt_serve.demo import tickets
from softprompt_serve.demo.scoring import Score, markdown, score

if TYPE_CHECKING:
    from collections.abc import Sequence

CONCURRENCY: Final = 16
MAX_TOKENS: Final = 8
SPLITS: Final = ("test", "ood")

Results = dict[str, dict[str, Score]]
"""Scores by model, then by split."""


async def ask(client: AsyncOpenAI, model: str, text: str) -> str:
    """The greedy answer of one model to one ticket."""
    completion = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": text}],
        temperature=0.0,
        max_completion_tokens=MAX_TOKENS,
    )
    return completion.choices[0].message.content or ""


async def evaluate(
    client: AsyncOpenAI, models: Sequence[str], progress: Progress, splits: Sequence[str] = SPLITS
) -> Results:
    """Scores of each model on each split, at most :data:`CONCURRENCY` requests at a time.

    Raises:
        OpenAIError: a request failed; there is no partial result.
    """
    gate = asyncio.Semaphore(CONCURRENCY)
    results: Results = {model: {} for model in models}
    for model in models:
        for split in splits:
            asked = tickets.load(split)
            task = progress.add_task(f"{model} {split}", total=len(asked))

            async def one(ticket: tickets.Ticket, model: str = model, task: int = task) -> str:
                async with gate:
                    answer = await ask(client, model, ticket.text)
                progress.advance(task)  # type: ignore[arg-type]
                return answer

            given = await asyncio.gather(*map(one, asked))
            results[model][split] = score(zip(given, (t.label for t in asked), strict=True))
    return results


def as_json(results: Results) -> str:
    """The results for programs: counts, accuracy and interval by model and split."""
    plain = {
        model: {
            split: {
                "right": found.right,
                "total": found.total,
                "accuracy": found.accuracy,
                "interval_95": list(found.interval),
            }
            for split, found in by_split.items()
        }
        for model, by_split in results.items()
    }
    return json.dumps(plain, indent=2)


def rows(results: Results) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of accuracies."""
    splits = list(next(iter(results.values()), {}))
    header = ["model", *splits]
    return header, [[m, *(by[s].cell() for s in splits)] for m, by in results.items()]


def _report(results: Results, console: Console) -> None:
    header, body = rows(results)
    table = Table(*header, title="Accuracy (95 % Wilson interval)")
    for line in body:
        table.add_row(*line)
    console.print(table)
    typer.echo(markdown(header, body))


def main(
    models: Annotated[str, typer.Option(help="Served model names, separated by commas.")],
    url: Annotated[str, typer.Option(help="Of the server.")] = "http://127.0.0.1:8000",
    as_json_: Annotated[  # noqa: FBT002 - typer makes a flag of it
        bool, typer.Option("--json", help="Print JSON instead of tables.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON here.")] = None,
) -> None:
    """Ask the served models the demo's tickets and print their accuracies."""
    console = Console(stderr=True)

    async def measure() -> Results:
        key = os.environ.get("OPENAI_API_KEY", "unused")
        async with AsyncOpenAI(base_url=f"{url.rstrip('/')}/v1", api_key=key) as client:
            with Progress(console=console) as progress:
                return await evaluate(client, [m for m in models.split(",") if m], progress)

    try:
        results = asyncio.run(measure())
    except OpenAIError as error:
        console.print(f"{url}: {error}", style="red", markup=False)
        raise typer.Exit(1) from None
    if out is not None:
        out.write_text(as_json(results) + "\n", encoding="utf-8")
    if as_json_:
        typer.echo(as_json(results))
    else:
        _report(results, console)


if __name__ == "__main__":
    typer.run(main)
