"""Compare the candidate texts for the hard prompt on a slice of the training tickets.

``python -m softprompt_serve.demo.choose_text --model DIR`` asks the plain base model, greedily,
with each text of ``candidates.toml`` as system message, and prints a markdown table. Test and
out-of-distribution tickets play no part in the choice.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import Progress
from transformers import DynamicCache

from softprompt_serve.demo import tickets
from softprompt_serve.demo.decode import MAX_NEW_TOKENS, load_base, render
from softprompt_serve.demo.scoring import markdown, score

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedTokenizerBase

CANDIDATES = Path(__file__).parent / "candidates.toml"


def read_candidates() -> dict[str, str]:
    """The candidate texts by name, without surrounding blank lines."""
    table = tomllib.loads(CANDIDATES.read_text(encoding="utf-8"))
    return {name: entry["text"].strip() for name, entry in table.items()}


@torch.inference_mode()
def answers_after(
    model: Any, tokenizer: PreTrainedTokenizerBase, system: str, texts: Sequence[str]
) -> Iterator[str]:
    """Greedy answers to two or more different ``texts``; their common start is computed once."""
    rows = [render(tokenizer, text, system) for text in texts]
    alike = [a == b for a, b in zip(min(rows), max(rows), strict=False)]
    shared = alike.index(False)
    cache = DynamicCache()
    model(input_ids=torch.tensor([rows[0][:shared]]), past_key_values=cache, logits_to_keep=1)
    for row in rows:
        following, answer = row[shared:], list[int]()
        while len(answer) < MAX_NEW_TOKENS:
            ids = torch.tensor([following])
            logits = model(input_ids=ids, past_key_values=cache, logits_to_keep=1).logits
            following = [int(logits[0, -1].argmax())]
            if following[0] == tokenizer.eos_token_id:
                break
            answer += following
        cache.crop(shared - cache.get_seq_length())  # negative: how many to drop
        yield str(tokenizer.decode(answer, skip_special_tokens=True))


def main(
    model: Annotated[Path, typer.Option(help="Directory that `demo.prepare` made.")],
    count: Annotated[int, typer.Option(min=2, help="How many training tickets to ask.")] = 96,
    only: Annotated[list[str] | None, typer.Option(help="Only these candidates.")] = None,
) -> None:
    """Print the accuracy of each candidate on the last training tickets."""
    base, tokenizer = load_base(model)
    asked = tickets.load("train")[-count:]
    texts = [ticket.text for ticket in asked]
    rows = []
    with Progress(console=Console(stderr=True)) as progress:
        for name, system in read_candidates().items():
            if only and name not in only:
                continue
            answers = answers_after(base, tokenizer, system, texts)
            given = list(progress.track(answers, total=count, description=name))
            result = score(zip(given, (t.label for t in asked), strict=True))
            common = ", ".join(f"{a!r} x {n}" for a, n in Counter(given).most_common(3))
            size = len(tokenizer(system)["input_ids"])
            rows.append([f"`{name}`", str(size), result.cell(), common.replace("|", "/")])
            progress.console.print(" ".join(rows[-1]), markup=False, highlight=False)
    header = ["text", "tokens", f"accuracy on {count} training tickets", "commonest answers"]
    typer.echo(markdown(header, rows))


if __name__ == "__main__":
    typer.run(main)
