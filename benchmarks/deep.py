"""What do keys and values cost, and what do they save? Rows computed, rows kept, a prefix, plain tokens.

Two servers take their turns: ours as it starts, and one without the KV connector
(SOFTPROMPT_DEEP_PROMPTS=false), so that plain requests show what an idle connector costs. On ours, a
soft version that is computed with each request (pinned), the same rows once their keys and values are
kept (production), and a prefix stand beside the visible tokens alone, which is what all of them would
cost if virtual tokens were free. Prefix caching is off, so that nothing else saves a prefill. The
figures to trust are the ratios within a round.

    python benchmarks/deep.py --model DIR        # the demo model (softprompt_serve.demo.prepare)
"""

from __future__ import annotations

import asyncio
import json
import statistics
from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING, Final

import torch
from serving import BASE, Caller, Served, calling, parser, serving
from side_by_side import Figures, first_token, first_tokens, machine, rotated, rounds, spread

if TYPE_CHECKING:
    import argparse

ALONE: Final = "visible tokens alone"
WITHOUT: Final = "the same, no connector"
WAYS: Final = {"computed": "soft-{n}@v1", "kept": "kept-{n}", "prefix": "deep-{n}@v1"}


class Bench:
    """The cases, and the clock."""

    def __init__(self, options: argparse.Namespace, config: dict[str, int]) -> None:
        self.options, self.config = options, config
        self.cases = {ALONE: BASE, WITHOUT: BASE}
        for n in options.rows:
            self.cases |= {f"{way}, n = {n}": name.format(n=n) for way, name in WAYS.items()}
        self.firsts, self.rates = Figures(), Figures()

    async def prepare(self, caller: Caller) -> None:
        """Upload each n in each way; what is kept is kept by going into production."""
        heads = self.config["num_key_value_heads"]
        size = self.config.get("head_dim") or (
            self.config["hidden_size"] // self.config["num_attention_heads"]
        )
        for n in self.options.rows:
            # Of other rows, or what is kept of the one would be the other's, too.
            await caller.upload(f"soft-{n}", "v1", caller.rows(n))
            await caller.upload(f"kept-{n}", "v1", caller.rows(n))
            await caller.alias(f"kept-{n}", "v1")
            keys = torch.randn(self.config["num_hidden_layers"], 2, n, heads, size)
            await caller.upload(f"deep-{n}", "v1", keys)

    async def run(self, ours: Caller, without: Caller) -> None:
        """Go round the cases; the first round warms up."""
        await self.prepare(ours)
        for number in rounds(self.options.rounds):
            for case in rotated(list(self.cases), number):
                firsts, rate = await self._turn(without if case == WITHOUT else ours, case)
                if number:
                    self.firsts.add(case, statistics.median(firsts))
                    self.rates.add(case, rate)

    async def _turn(self, caller: Caller, case: str) -> tuple[list[float], float]:
        """Seconds to first tokens, one at a time; and tokens per second of many at once."""
        options, model = self.options, self.cases[case]

        def body(output: int) -> bytes:
            return caller.body(model, caller.ids(options.visible), output)

        firsts = [await first_token(caller.client, body(1)) for _ in range(options.singles)]
        bodies = [body(options.output) for _ in range(options.concurrency)]
        _, seconds = await first_tokens(caller.client, bodies, options.concurrency)
        return firsts, options.concurrency * options.output / seconds


def table(bench: Bench) -> str:
    """Markdown: medians, and ratios to the visible tokens alone."""
    options = bench.options
    lines = [
        (
            f"{options.visible} visible tokens, {options.output} generated, {options.concurrency} at "
            f"once, {options.rounds} rounds.\n"
        ),
        "| | TTFT, ms | tokens/s | TTFT ÷ alone | tokens/s ÷ alone |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {case} | {1000 * bench.firsts.median(case):.1f} | {bench.rates.median(case):.1f} "
        f"| {spread(bench.firsts.ratios(case, ALONE))} | {spread(bench.rates.ratios(case, ALONE))} |"
        for case in bench.cases
    ]
    return "\n".join(lines)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    line = parser(__doc__)
    line.add_argument("--rows", type=int, nargs="+", default=[8, 20, 100, 256])
    line.add_argument("--visible", type=int, default=100, help="visible tokens")
    line.add_argument("--output", type=int, default=8, help="generated tokens")
    line.add_argument("--concurrency", type=int, default=8)
    line.add_argument("--singles", type=int, default=5, help="requests alone, per round")
    return line.parse_args(given)


async def _run(bench: Bench, urls: tuple[Served, Served]) -> None:
    async with AsyncExitStack() as stack:
        callers = [
            await stack.enter_async_context(calling(served, bench.options.seed)) for served in urls
        ]
        await bench.run(*callers)


def main(given: list[str] | None = None) -> None:
    """Run and print a Markdown table."""
    options = arguments(given)
    bench = Bench(options, json.loads((options.model / "config.json").read_text()))
    flags = ("--max-model-len", "1024", "--max-num-seqs", str(options.concurrency))
    with ExitStack() as stack:
        without, ours = (
            stack.enter_context(
                serving(options.model, *flags, "--no-enable-prefix-caching", deep_prompts=deep)
            )
            for deep in ("false", "true")
        )
        asyncio.run(_run(bench, (ours, without)))
    print(f"{table(bench)}\n\n{machine()}")


if __name__ == "__main__":
    main()
