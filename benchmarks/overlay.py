"""What does the overlay cost? Plain tokens, overlay and native prompt_embeds, side by side.

One server, warm, asked over HTTP as clients ask it; the three variants take turns in each round,
so that a drifting machine hits all alike, and the figures to trust are the ratios. Prompts have
equal length: the version's n rows and the visible tokens, native's embeddings of both, or as many
plain tokens. Bodies are encoded before the clock starts. Prefix caching is off, so that every
prefill is computed. More take their turns where they are asked for: --beside-plain-vllm, vLLM without
our flags, with plain tokens (what the flags themselves cost); --beside-hard N, a text of N tokens
instead of the virtual ones (what a soft prompt saves where it replaces one); --beside-lora, vLLM with a
LoRA adapter on the visible tokens alone; --beside-transformers, PEFT with Transformers' generate.

    python benchmarks/overlay.py --model DIR           # the demo model (softprompt_serve.demo.prepare)
    python benchmarks/overlay.py --model DIR --wide    # hidden 4096, 2 layers, random weights
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import random
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import safetensors.torch
import torch
from rivals import Transformers, make_lora
from side_by_side import Figures, first_token, free_port, machine, spread, wait_ready

from softprompt_serve.demo.child import Server

PLAIN, OVERLAY, NATIVE = "plain tokens", "overlay", "native prompt_embeds"
PURE = "plain tokens, plain vLLM"
HARD = "hard prompt"
LORA = "LoRA, plain vLLM"
PEFT = "Transformers + PEFT"
ORDER = (PLAIN, OVERLAY, NATIVE, PURE, HARD, LORA, PEFT)
BASE, TOKEN, ADAPTER = "base", "a-token-for-benchmarks", "adapter"
WIDE = {
    "hidden_size": 4096,
    "intermediate_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 2,
    "head_dim": 128,
}


class Bench:
    """Requests of each variant, and the clock."""

    def __init__(
        self, options: argparse.Namespace, config: dict[str, Any], urls: dict[str, str]
    ) -> None:
        self.options = options
        self.hidden_size: int = config["hidden_size"]
        self.vocabulary: int = config["vocab_size"]
        self.rng = random.Random(options.seed)
        asked = {
            HARD: options.beside_hard > 0,
            PEFT: options.beside_transformers,
            **{name: name in urls for name in (PURE, LORA)},
        }
        self.variants = [name for name in ORDER if asked.get(name, True)]
        self.transformers = Transformers(options.model, options.rows) if asked[PEFT] else None
        # A server closes what idles for five seconds, which is less than the others' turns take.
        fresh = httpx.Limits(max_keepalive_connections=0)
        self.clients = {
            name: httpx.AsyncClient(base_url=url, timeout=600, trust_env=False, limits=fresh)
            for name, url in urls.items()
        }

    async def upload(self) -> None:
        """Make a version of random rows resident."""
        rows = torch.randn(self.options.rows, self.hidden_size) * 0.02
        answer = await self.clients[OVERLAY].post(
            "/softprompts/v1/prompts/bench/versions",
            headers={"authorization": f"Bearer {TOKEN}"},
            files={"tensor": ("rows.safetensors", safetensors.torch.save({"rows": rows}))},
        )
        answer.raise_for_status()

    def body(self, variant: str, tokens: int) -> bytes:
        """A request of this variant, encoded; every one has other tokens."""
        rows, visible = self.options.rows, self.options.visible
        request: dict[str, Any] = {
            "model": BASE,
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        if variant == OVERLAY:
            request |= {"model": "bench@v1", "prompt": self._ids(visible)}
        elif variant == HARD:
            request |= {"prompt": self._ids(self.options.beside_hard + visible)}
        elif variant == LORA:
            request |= {"model": ADAPTER, "prompt": self._ids(visible)}
        elif variant == NATIVE:
            file = io.BytesIO()
            shape = (rows + visible, self.hidden_size)
            torch.save(torch.randn(shape, dtype=getattr(torch, self.options.dtype)) * 0.02, file)
            request |= {"prompt_embeds": base64.b64encode(file.getvalue()).decode()}
        else:
            request |= {"prompt": self._ids(rows + visible)}
        return json.dumps(request).encode()

    def _ids(self, count: int) -> list[int]:
        return [self.rng.randrange(100, self.vocabulary - 100) for _ in range(count)]

    async def ask(self, variant: str, body: bytes) -> float:
        """Seconds to the first token; reads the answer to its end."""
        return await first_token(self.clients.get(variant, self.clients[OVERLAY]), body)

    async def measure(self) -> dict[str, Figures]:
        """Rounds of all variants: one at a time for TTFT, many at once for throughput."""
        options, variants = self.options, self.variants
        ttft, throughput = Figures(), Figures()
        for number in range(options.rounds + 1):  # the first warms up
            turn = number % len(variants)
            for variant in variants[turn:] + variants[:turn]:
                firsts, seconds = await (
                    asyncio.to_thread(self._in_process) if variant == PEFT else self._turn(variant)
                )
                if number:
                    ttft.add(variant, statistics.median(firsts))
                    throughput.add(variant, options.concurrency * options.output / seconds)
            print(f"  round {number} of {options.rounds}", file=sys.stderr, flush=True)
        return {"ttft": ttft, "throughput": throughput}

    async def _turn(self, variant: str) -> tuple[list[float], float]:
        """Seconds to first tokens, one at a time; and of many requests at once."""
        options = self.options
        singles = [self.body(variant, 1) for _ in range(options.singles)]
        crowd = [self.body(variant, options.output) for _ in range(options.concurrency)]
        firsts = [await self.ask(variant, body) for body in singles]
        begun = time.perf_counter()
        await asyncio.gather(*(self.ask(variant, body) for body in crowd))
        return firsts, time.perf_counter() - begun

    def _in_process(self) -> tuple[list[float], float]:
        """The same without a server."""
        options, found = self.options, self.transformers
        if found is None:
            return [], 0.0
        firsts = [found.seconds([self._ids(options.visible)], 1) for _ in range(options.singles)]
        crowd = [self._ids(options.visible) for _ in range(options.concurrency)]
        return firsts, found.seconds(crowd, options.output)


def command(options: argparse.Namespace, folder: Path, port: int, variant: str) -> list[str]:
    """What starts a server; ours, but for ``PURE`` and ``LORA``, which are vLLM without our flags."""
    flags = [
        *("--served-model-name", BASE, "--dtype", options.dtype, "--max-model-len", "2048"),
        *("--max-num-seqs", str(options.concurrency), "--no-enable-prefix-caching"),
        *("--host", "127.0.0.1", "--port", str(port)),
    ]
    if options.wide:
        flags += ["--load-format", "dummy", "--tokenizer", str(options.model)]
    if variant == LORA:
        flags += ["--enable-lora", "--lora-modules", f"{ADAPTER}={options.adapter}"]
    if variant in {PURE, LORA}:
        start = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    else:
        start = ["-m", "softprompt_serve.cli", "serve", str(folder)]
    return [sys.executable, *start, *flags]


def table(title: str, found: dict[str, Figures], options: argparse.Namespace) -> str:
    """Markdown: medians, and ratios per round with their spread."""
    ttft, throughput = found["ttft"], found["throughput"]
    setup = (
        f"{options.rows} virtual + {options.visible} visible tokens, {options.output} generated, "
        f"{options.concurrency} at once, {options.rounds} rounds, {options.dtype}."
    )
    lines = [
        f"### {title}\n",
        f"{setup}\n",
        "| variant | TTFT alone (ms) | tokens/s | TTFT ÷ plain | tokens/s ÷ plain |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {variant} | {ttft.median(variant) * 1000:.1f} | {throughput.median(variant):.1f} "
        f"| {spread(ttft.ratios(variant, PLAIN))} | {spread(throughput.ratios(variant, PLAIN))} |"
        for variant in ORDER
        if variant in ttft.rounds
    ]
    lines += [
        f"\nOverlay ÷ {other}: tokens/s {spread(throughput.ratios(OVERLAY, other))}, "
        f"TTFT {spread(ttft.ratios(OVERLAY, other))}."
        for other in (NATIVE, PURE, HARD, LORA, PEFT)
        if other in ttft.rounds
    ]
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the demo model")
    parser.add_argument("--wide", action="store_true", help="hidden 4096, 2 layers, random weights")
    parser.add_argument(
        "--beside-plain-vllm", action="store_true", help="a second server, without our flags"
    )
    parser.add_argument(
        "--beside-hard", type=int, default=0, metavar="N", help="a text of N tokens instead"
    )
    parser.add_argument(
        "--beside-lora", action="store_true", help="a third server, with a LoRA adapter"
    )
    parser.add_argument(
        "--beside-transformers", action="store_true", help="PEFT in this process, not with --wide"
    )
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rows", type=int, default=20, help="virtual tokens")
    parser.add_argument("--visible", type=int, default=100, help="visible tokens")
    parser.add_argument("--output", type=int, default=16, help="generated tokens")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--singles", type=int, default=5, help="requests alone, per round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write every round's figures here")
    return parser.parse_args()


def measured(options: argparse.Namespace, scratch: Path) -> dict[str, Figures]:
    """Start the servers, measure, and stop them."""
    config = json.loads((options.model / "config.json").read_text())
    folder = options.model
    if options.wide:
        folder, config = scratch / "wide", config | WIDE
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
    environment = {"VLLM_CPU_KVCACHE_SPACE": "2", **os.environ}
    ours = environment | {
        "SOFTPROMPT_HOME": str(scratch / "home"),
        "SOFTPROMPT_ADMIN_TOKEN": TOKEN,
        "SOFTPROMPT_ALLOW_RAW_PROMPT_EMBEDS": "true",
    }
    urls: dict[str, str] = {}
    with ExitStack() as servers:
        asked = {OVERLAY: True, PURE: options.beside_plain_vllm, LORA: options.beside_lora}
        if options.beside_lora:
            options.adapter = make_lora(folder, scratch / "lora")
        for name in [name for name, wanted in asked.items() if wanted]:
            port = free_port()
            start = command(options, folder, port, name)
            log = scratch / f"{port}.log"
            server = servers.enter_context(
                Server(start, ours if name == OVERLAY else environment, log)
            )
            urls[name] = f"http://127.0.0.1:{port}"
            wait_ready(server, urls[name])
        return asyncio.run(run(Bench(options, config, urls)))


async def run(bench: Bench) -> dict[str, Figures]:
    """Upload, measure and close."""
    try:
        await bench.upload()
        return await bench.measure()
    finally:
        for client in bench.clients.values():
            await client.aclose()


def main() -> None:
    """Run and print a Markdown table."""
    options = arguments()
    options.model = options.model.absolute()
    with tempfile.TemporaryDirectory() as scratch:
        found = measured(options, Path(scratch))
    title = "hidden 4096, 2 layers, random weights" if options.wide else options.model.name
    print(f"{table(title, found, options)}\n\n{machine()}")
    if options.json:
        options.json.write_text(json.dumps({k: f.rounds for k, f in found.items()}, indent=1))


if __name__ == "__main__":
    main()
