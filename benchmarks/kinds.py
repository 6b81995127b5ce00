"""Text, rows, keys and values, or other weights? The demo's versions beside a LoRA, as they are served.

Our server has the demo's versions. vLLM without us has a LoRA of as many numbers as the prefix v4,
trained on the same tickets for as many steps: adapters are refused beside prompts (docs/methods.md).
Each is asked the demo's tickets through its endpoint. Its prefill is then timed in production, one
request at a time, in turn with the base model on the same server, with caches on as they are served.

    python benchmarks/kinds.py --model DIR                  # the demo model (softprompt_serve.demo.prepare)
    python benchmarks/kinds.py --model DIR --bbh FOLDER     # and the LoRA on BIG-Bench Hard (make bbh)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx
from cost.engines import WITHOUT_US, vllm_alone
from openai import AsyncOpenAI
from rich.console import Console
from rich.progress import Progress
from serving import BASE, TOKEN, calling, serving
from side_by_side import first_token, free_port, machine, spread, wait_ready

from softprompt_serve.cli.client import Api
from softprompt_serve.cli.evaluating import sampling_of
from softprompt_serve.demo import bbh, bbh_items, seed, tickets
from softprompt_serve.demo.child import Server
from softprompt_serve.demo.evaluate import SPLITS, evaluate
from softprompt_serve.demo.prepare import MODEL_NAME
from softprompt_serve.demo.recipes import LORA
from softprompt_serve.demo.scoring import Score, markdown
from softprompt_serve.evaluation.asking import Endpoint
from softprompt_serve.evaluation.dataset import load_dataset
from softprompt_serve.evaluation.evaluators import Options, evaluators_of
from softprompt_serve.evaluation.replies import Target, base_digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from serving import Served

    from softprompt_serve.evaluation.dataset import Item

FLAGS: Final = ("--max-model-len", "2048", "--max-num-seqs", "16")
RIGHT: Final = "exact_match"
WARM_UPS: Final = 3
CONTENT: Final = ("text.txt", "adapter_model.safetensors")


@dataclass(slots=True)
class Found:
    """What is known of one kind.

    Attributes:
        scores: by split or data set.
        ratios: of each ticket, time to first token divided by the base model's.
    """

    scores: dict[str, Score] = field(default_factory=dict)
    ratios: list[float] = field(default_factory=list)


def content_bytes(kind: str) -> int:
    """Of what is shipped: a text, or tensors."""
    folder = seed.PROMPTS / f"{seed.PROMPT}-{kind}"
    return sum((folder / name).stat().st_size for name in CONTENT if (folder / name).is_file())


async def accuracy(url: str, model: str) -> dict[str, Score]:
    """Right answers on both splits."""
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=600) as client:
        with Progress(console=Console(stderr=True)) as progress:
            return (await evaluate(client, [model], progress, SPLITS))[model]


async def bbh_score(url: str, model: str, items: Sequence[Item]) -> Score:
    """Right answers on a slice of BIG-Bench Hard, asked and scored as versions are.

    Raises:
        RuntimeError: an item was not answered.
    """
    target = Target(model, model, base_digest(), prompt=False)
    (judge,) = evaluators_of([RIGHT], Options())
    sampling = sampling_of(0.0, 0, bbh.MAX_TOKENS, bbh.SAMPLING)
    gate = asyncio.Semaphore(bbh.CONCURRENCY)
    async with Endpoint(url) as endpoint:

        async def passed(item: Item) -> bool:
            async with gate:
                reply = await endpoint.ask(item, target, sampling)
            if reply.answer.error is not None:
                msg = f"{model} did not answer {item.id}: {reply.answer.error}"
                raise RuntimeError(msg)
            return (await judge.score(item, reply)).passed

        verdicts = await asyncio.gather(*map(passed, items))
    return Score(sum(verdicts), len(verdicts))


def body(model: str, text: str) -> bytes:
    """One ticket, of whose answer the first token alone is wanted."""
    message = {"role": "user", "content": text}
    return json.dumps(
        {"model": model, "messages": [message], "max_tokens": 1, "temperature": 0, "stream": True}
    ).encode()


async def prefill(client: httpx.AsyncClient, model: str, count: int) -> list[float]:
    """Times to first token, divided by the base model's for the same ticket."""
    texts = [ticket.text for ticket in tickets.load("test")]
    ratios = []
    for number, text in enumerate(texts[: count + WARM_UPS]):
        turns = (model, BASE) if number % 2 else (BASE, model)
        took = {
            name: await first_token(client, body(name, text), "/v1/chat/completions")
            for name in turns
        }
        if number >= WARM_UPS:
            ratios.append(took[model] / took[BASE])
    return ratios


async def versions(served: Served, kinds: Sequence[str], count: int) -> dict[str, Found]:
    """The base model and versions of the demo, on our server."""
    found = {}
    async with calling(served) as caller:
        for kind in kinds:
            model = BASE if kind == BASE else f"{seed.PROMPT}@{kind}"
            found[kind] = Found(await accuracy(served.url, model))
            if kind != BASE:
                await caller.alias(seed.PROMPT, kind)
                found[kind].ratios = await prefill(caller.client, seed.PROMPT, count)
    return found


async def adapter(url: str, items: Sequence[Path], count: int) -> Found:
    """The LoRA, on vLLM without us; never at once with the base model: see docs/methods.md."""
    found = Found(await accuracy(url, LORA))
    async with httpx.AsyncClient(base_url=url, timeout=600, trust_env=False) as client:
        found.ratios = await prefill(client, LORA, count)
    for path in items:
        found.scores[path.stem] = await bbh_score(url, LORA, load_dataset(path).items)
    return found


@contextmanager
def without_us(model: Path, lora: Path) -> Iterator[str]:
    """Serve with vLLM alone, and an adapter."""
    with tempfile.TemporaryDirectory() as scratch:
        url = f"http://127.0.0.1:{(port := free_port())}"
        command = vllm_alone(
            model,
            *("--served-model-name", BASE, "--dtype", "float32", "--host", "127.0.0.1"),
            *("--port", str(port), *FLAGS),
            *("--enable-lora", "--max-lora-rank", "8", "--lora-modules", f"{LORA}={lora}"),
            # Its own layers and no others: each that could be adapted costs, adapted or not.
            *("--lora-target-modules", "qkv_proj", "o_proj"),
        )
        log = Path(scratch) / "server.log"
        with Server(command, {**os.environ, **WITHOUT_US}, log) as server:
            wait_ready(server, url)
            yield url


def row(kind: str, found: Found) -> list[str]:
    """A line of the table."""
    scored = [found.scores.get(name) for name in (*SPLITS, *bbh_items.SETS)]
    return [
        kind,
        "-" if kind == BASE else f"{content_bytes(kind) / 1000:,.1f}",
        *("-" if one is None else one.cell() for one in scored),
        spread(found.ratios) if found.ratios else "-",
    ]


def table(everything: dict[str, Found]) -> str:
    """Markdown."""
    header = ["", "kB", *SPLITS, *bbh_items.SETS, "TTFT ÷ base"]
    return markdown(header, (row(kind, found) for kind, found in everything.items()))


def measured(options: argparse.Namespace) -> dict[str, Found]:
    """Our server first, and then the other: one engine at a time."""
    found: dict[str, Found] = {}
    ours = [kind for kind in options.kinds if kind != LORA]
    if ours:
        # The versions were trained for the model's own name.
        with serving(options.model, *FLAGS, "--served-model-name", MODEL_NAME, BASE) as served:
            with Api(served.url, TOKEN) as api:
                seed.seed(api, Console(stderr=True))
            found |= asyncio.run(versions(served, ours, options.tickets))
    if LORA in options.kinds:
        items = [options.bbh / f"{name}.jsonl" for name in bbh_items.SETS] if options.bbh else []
        with without_us(options.model, options.lora) as url:
            found[LORA] = asyncio.run(adapter(url, items, options.tickets))
    return found


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    line = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    line.add_argument("--model", type=Path, required=True, help="folder of the demo model")
    kinds = [BASE, *seed.VERSIONS, LORA]
    line.add_argument("--kinds", nargs="+", choices=kinds, default=kinds)
    line.add_argument("--lora", type=Path, default=seed.PROMPTS / f"{seed.PROMPT}-{LORA}")
    line.add_argument("--bbh", type=Path, metavar="FOLDER", help="with the items of `make bbh`")
    line.add_argument("--tickets", type=int, default=40, help="whose first token is timed")
    return line.parse_args(given)


def main(given: list[str] | None = None) -> None:
    """Run and print Markdown."""
    print(table(measured(arguments(given))))
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
