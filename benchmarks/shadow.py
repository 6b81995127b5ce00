"""What do users feel of shadow traffic? Off, on, and shed, side by side.

One server, one prompt, four kinds of turn in each round: no shadow; every request copied to another
version, within the budget; every request copied but shed for users' sake; every answer scored
(one prefill, no decoding). A turn asks alone for the time to the first token, then many at once
for throughput. The figures to trust are the ratios to the turns without a shadow.

    python benchmarks/shadow.py --model DIR        # the demo model (softprompt_serve.demo.prepare)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import safetensors.torch
import torch
from side_by_side import Figures, first_token, free_port, machine, spread, wait_ready

from softprompt_serve.demo.child import Server

OFF, ON, SHED, SCORED = "shadow off", "shadow on", "shadow shed", "shadow scored"
VARIANTS = (OFF, ON, SHED, SCORED)
BASE, TOKEN = "base", "a-token-for-benchmarks"
ADMIN = "/softprompts/v1"


class Bench:
    """Users' requests, and the shadow behind them."""

    def __init__(self, options: argparse.Namespace, config: dict[str, Any], url: str) -> None:
        self.options = options
        self.hidden_size: int = config["hidden_size"]
        self.vocabulary: int = config["vocab_size"]
        self.rng = random.Random(options.seed)
        fresh = httpx.Limits(max_keepalive_connections=0)
        self.client = httpx.AsyncClient(base_url=url, timeout=600, trust_env=False, limits=fresh)
        self.headers = {"authorization": f"Bearer {TOKEN}"}
        self.copies: dict[str, Counter[str]] = {variant: Counter() for variant in VARIANTS}

    async def upload(self) -> None:
        """Two versions of random rows."""
        for name in ("v1", "v2"):
            rows = torch.randn(self.options.rows, self.hidden_size) * 0.02
            answer = await self.client.post(
                f"{ADMIN}/prompts/bench/versions",
                headers=self.headers,
                files={"tensor": ("rows.safetensors", safetensors.torch.save({"rows": rows}))},
                data={"version": name},
            )
            answer.raise_for_status()

    async def turn(self, variant: str) -> None:
        """Set the rollout of a turn."""
        shadow: dict[str, Any] = {"version": "v2", "sample": 1.0}
        if variant == ON:
            shadow |= {"max_concurrency": self.options.budget, "max_tokens_per_second": 1e6}
        elif variant == SCORED:
            shadow |= {"mode": "score", "max_concurrency": 1, "max_tokens_per_second": 1e6}
        else:  # a budget of next to nothing: every copy is offered, and shed
            shadow |= {"max_concurrency": 1, "max_tokens_per_second": 1e-6}
        document: dict[str, Any] = {"arms": [{"version": "v1", "weight": 1}]}
        if variant != OFF:
            document["shadow"] = shadow
        answer = await self.client.put(
            f"{ADMIN}/prompts/bench/rollout", headers=self.headers, json=document
        )
        answer.raise_for_status()

    def body(self, tokens: int) -> bytes:
        ids = [self.rng.randrange(100, self.vocabulary - 100) for _ in range(self.options.visible)]
        return json.dumps(
            {
                "model": "bench",
                "prompt": ids,
                "max_tokens": tokens,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
            }
        ).encode()

    async def measure(self) -> dict[str, Figures]:
        """Rounds of all variants."""
        options = self.options
        ttft, throughput = Figures(), Figures()
        for number in range(options.rounds + 1):  # the first warms up
            at = number % len(VARIANTS)
            for variant in VARIANTS[at:] + VARIANTS[:at]:
                await self.turn(variant)
                firsts = [
                    await first_token(self.client, self.body(8)) for _ in range(options.singles)
                ]
                crowd = [self.body(options.output) for _ in range(options.concurrency)]
                begun = time.perf_counter()
                await asyncio.gather(*(first_token(self.client, body) for body in crowd))
                seconds = time.perf_counter() - begun
                await self.count(variant)
                if number:
                    ttft.add(variant, statistics.median(firsts))
                    throughput.add(variant, options.concurrency * options.output / seconds)
            print(f"  round {number} of {options.rounds}", file=sys.stderr, flush=True)
        return {"ttft": ttft, "throughput": throughput}

    async def count(self, variant: str) -> None:
        """What became of a turn's copies, once they have ended."""
        await asyncio.sleep(self.options.settle)
        answer = await self.client.get(f"{ADMIN}/prompts/bench/shadow", headers=self.headers)
        found = answer.json()["overall"]
        self.copies[variant].update(compared=found["pairs"], scored=found["scored"])
        self.copies[variant].update({f"shed: {cause}": n for cause, n in found["shed"].items()})


def table(title: str, found: dict[str, Figures], options: argparse.Namespace) -> str:
    """Markdown: medians, and ratios per round with their spread."""
    ttft, throughput = found["ttft"], found["throughput"]
    lines = [
        f"### {title}\n",
        (
            f"{options.rows} virtual + {options.visible} visible tokens, {options.output} "
            f"generated, {options.concurrency} at once; shadows end when {options.busy} users' "
            f"requests are in flight; {options.rounds} rounds.\n"
        ),
        "| turn | users' TTFT alone (ms) | users' tokens/s | TTFT ÷ off | tokens/s ÷ off |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {variant} | {ttft.median(variant) * 1000:.1f} | {throughput.median(variant):.1f} "
        f"| {spread(ttft.ratios(variant, OFF))} | {spread(throughput.ratios(variant, OFF))} |"
        for variant in VARIANTS
    ]
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the demo model")
    parser.add_argument("--rows", type=int, default=20, help="virtual tokens")
    parser.add_argument("--visible", type=int, default=100, help="visible tokens")
    parser.add_argument("--output", type=int, default=16, help="generated tokens")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--budget", type=int, default=2, help="shadows at once")
    parser.add_argument("--busy", type=int, default=4, help="users' requests that end shadows")
    parser.add_argument("--singles", type=int, default=5, help="requests alone, per turn")
    parser.add_argument("--settle", type=float, default=2.0, help="seconds after a turn")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


async def run(bench: Bench) -> dict[str, Figures]:
    """Upload, measure and close."""
    try:
        await bench.upload()
        return await bench.measure()
    finally:
        await bench.client.aclose()


def main() -> None:
    """Run and print a Markdown table."""
    options = arguments()
    config = json.loads((options.model / "config.json").read_text())
    port = free_port()
    flags = [
        *("--served-model-name", BASE, "--dtype", "float32", "--max-model-len", "2048"),
        *("--max-num-seqs", "32", "--no-enable-prefix-caching"),
        *("--host", "127.0.0.1", "--port", str(port)),
    ]
    start = [sys.executable, "-m", "softprompt_serve.cli", "serve", str(options.model.absolute())]
    with tempfile.TemporaryDirectory() as scratch:
        environment = {"VLLM_CPU_KVCACHE_SPACE": "2", **os.environ} | {
            "SOFTPROMPT_HOME": str(Path(scratch) / "home"),
            "SOFTPROMPT_ADMIN_TOKEN": TOKEN,
            "SOFTPROMPT_SHADOW_BUSY_REQUESTS": str(options.busy),
        }
        with Server([*start, *flags], environment, Path(scratch) / "log") as server:
            url = f"http://127.0.0.1:{port}"
            wait_ready(server, url)
            bench = Bench(options, config, url)
            found = asyncio.run(run(bench))
    print(f"{table(options.model.name, found, options)}\n")
    for variant, copies in bench.copies.items():
        told = ", ".join(f"{what} {n}" for what, n in copies.items() if n)
        print(f"- {variant}: {told or 'no copies'}")
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
