"""What do users feel of shadow traffic? Off, on, and shed, side by side.

One server, one prompt, four kinds of turn in each round: no shadow; every request copied to another
version, within the budget; every request copied but shed for users' sake; every answer scored
(one prefill, no decoding). A turn asks alone for the time to the first token, then many at once
for throughput. The figures to trust are the ratios to the turns without a shadow.

    python benchmarks/shadow.py --model DIR        # the demo model (softprompt_serve.demo.prepare)
"""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from typing import TYPE_CHECKING, Any

from serving import Caller, Served, calling, parser, run
from side_by_side import Figures, first_token, first_tokens, machine, rotated, rounds, spread

if TYPE_CHECKING:
    import argparse

OFF, ON, SHED, SCORED = "shadow off", "shadow on", "shadow shed", "shadow scored"
VARIANTS = (OFF, ON, SHED, SCORED)
PROMPT = "bench"
ALONE = 8
"""Tokens of an answer that is asked for alone."""


class Bench:
    """Users' requests, and the shadow behind them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.ttft, self.throughput = Figures(), Figures()
        self.copies: dict[str, Counter[str]] = {variant: Counter() for variant in VARIANTS}

    async def run(self, served: Served) -> None:
        """Rounds of all variants; the first warms up."""
        async with calling(served, self.options.seed) as caller:
            for version in ("v1", "v2"):
                await caller.upload(PROMPT, version, caller.rows(self.options.rows))
            for number in rounds(self.options.rounds):
                for variant in rotated(VARIANTS, number):
                    await caller.rollout(PROMPT, self._document(variant))
                    ttft, throughput = await self._turn(caller)
                    await self._count(caller, variant)
                    if number:
                        self.ttft.add(variant, ttft)
                        self.throughput.add(variant, throughput)

    def _document(self, variant: str) -> dict[str, Any]:
        """The rollout of a turn."""
        document: dict[str, Any] = {"arms": [{"version": "v1", "weight": 1}]}
        if variant == OFF:
            return document
        shadow: dict[str, Any] = {"version": "v2", "sample": 1.0, "max_concurrency": 1}
        # With a budget of next to nothing every copy is offered, and shed.
        shadow["max_tokens_per_second"] = 1e-6 if variant == SHED else 1e6
        if variant == ON:
            shadow["max_concurrency"] = self.options.budget
        elif variant == SCORED:
            shadow["mode"] = "score"
        return document | {"shadow": shadow}

    async def _turn(self, caller: Caller) -> tuple[float, float]:
        """Median seconds to the first token alone, and tokens per second of many at once."""
        options = self.options

        def body(tokens: int) -> bytes:
            return caller.body(PROMPT, caller.ids(options.visible), tokens)

        firsts = [await first_token(caller.client, body(ALONE)) for _ in range(options.singles)]
        crowd = [body(options.output) for _ in range(options.concurrency)]
        _, seconds = await first_tokens(caller.client, crowd, options.concurrency)
        return statistics.median(firsts), options.concurrency * options.output / seconds

    async def _count(self, caller: Caller, variant: str) -> None:
        """What became of a turn's copies, once they have ended."""
        await asyncio.sleep(self.options.settle)
        found = (await caller.get(f"{PROMPT}/shadow"))["overall"]
        self.copies[variant].update(compared=found["pairs"], scored=found["scored"])
        self.copies[variant].update({f"shed: {cause}": n for cause, n in found["shed"].items()})


def table(bench: Bench) -> str:
    """Markdown: medians, ratios per round with their spread, and what became of the copies."""
    options, ttft, throughput = bench.options, bench.ttft, bench.throughput
    lines = [
        (
            f"{options.rows} virtual + {options.visible} visible tokens, {ALONE} generated alone and "
            f"{options.output} with {options.concurrency} at once; shadows end when {options.busy} "
            f"users' requests are in flight; {options.rounds} rounds.\n"
        ),
        "| turn | users' TTFT alone (ms) | users' tokens/s | TTFT ÷ off | tokens/s ÷ off |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {variant} | {ttft.median(variant) * 1000:.1f} | {throughput.median(variant):.1f} "
        f"| {spread(ttft.ratios(variant, OFF))} | {spread(throughput.ratios(variant, OFF))} |"
        for variant in VARIANTS
    ]
    lines.append("")
    for variant, copies in bench.copies.items():
        told = ", ".join(f"{what} {n}" for what, n in copies.items() if n)
        lines.append(f"- {variant}: {told or 'no copies'}")
    return "\n".join(lines)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    line = parser(__doc__)
    line.add_argument("--rows", type=int, default=20, help="virtual tokens")
    line.add_argument("--visible", type=int, default=100, help="visible tokens")
    line.add_argument("--output", type=int, default=16, help="generated tokens")
    line.add_argument("--concurrency", type=int, default=16)
    line.add_argument("--budget", type=int, default=2, help="shadows at once")
    line.add_argument("--busy", type=int, default=4, help="users' requests that end shadows")
    line.add_argument("--singles", type=int, default=5, help="requests alone, per turn")
    line.add_argument("--settle", type=float, default=2.0, help="seconds after a turn")
    return line.parse_args(given)


def main(given: list[str] | None = None) -> None:
    """Run and print a Markdown table."""
    options = arguments(given)
    bench = Bench(options)
    flags = ("--max-num-seqs", "32", "--no-enable-prefix-caching")
    run(bench, options, *flags, shadow_busy_requests=options.busy)
    print(f"{table(bench)}\n\n{machine()}")


if __name__ == "__main__":
    main()
