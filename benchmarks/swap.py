"""What does a swap cost, and what do users feel of a hundred? In one run.

Three questions to one server: how long from the upload of a version to its first token; how long
from sending an alias change until every new request follows it; and what constant traffic feels while
the alias moves again and again, against the same traffic left alone, turn by turn. Each answer's
headers say which version gave it: a request sent after a swap was acknowledged and answered by the
version before it counts as late, one that failed as lost.

    python benchmarks/swap.py --model DIR         # the demo model (softprompt_serve.demo.prepare)
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from serving import Caller, Served, calling, serving
from side_by_side import Figures, first_token, machine, rounds, spread

ALONE, SWAPPED = "no swaps", "swaps"
PROMPT = "swap"


@dataclass
class Found:
    """Seconds of every kind, and what went wrong."""

    upload: list[float] = field(default_factory=list)
    first_answer: list[float] = field(default_factory=list)
    swaps: list[float] = field(default_factory=list)
    firsts: dict[str, list[float]] = field(default_factory=lambda: {ALONE: [], SWAPPED: []})
    medians: Figures = field(default_factory=Figures)
    worst: Figures = field(default_factory=Figures)
    requests: int = 0
    late: int = 0
    lost: int = 0


class Bench:
    """Traffic, swaps, and the clock."""

    def __init__(self, options: argparse.Namespace, caller: Caller) -> None:
        self.options = options
        self.caller = caller
        self.found = Found()
        self.meant: list[str] = []  # what production has been told to mean, in order
        self.acknowledged = 0  # how many of them

    async def run(self) -> None:
        """Uploads first, then turns with and without swaps; the first round warms up."""
        await self._uploads()
        for number in rounds(self.options.rounds):
            kinds = (ALONE, SWAPPED) if number % 2 else (SWAPPED, ALONE)
            for kind in kinds:
                await self._turn(kind, counts=number > 0)

    async def _uploads(self) -> None:
        """From the beginning of an upload to the first token of the version."""
        caller, options = self.caller, self.options
        for number in range(options.uploads):
            rows, visible = caller.rows(options.rows), caller.ids(options.visible)
            begun = time.perf_counter()
            await caller.upload(PROMPT, f"v{number}", rows)
            self.found.upload.append(time.perf_counter() - begun)
            await first_token(caller.client, caller.body(f"{PROMPT}@v{number}", visible, 1))
            self.found.first_answer.append(time.perf_counter() - begun)
        await self._swap()

    async def _swap(self) -> None:
        """Move production to another version; requests sent from now on must follow."""
        versions = [f"v{number}" for number in range(self.options.uploads)]
        version = self.caller.rng.choice([one for one in versions if one not in self.meant[-1:]])
        self.meant.append(version)
        begun = time.perf_counter()
        await self.caller.alias(PROMPT, version)
        self.found.swaps.append(time.perf_counter() - begun)
        self.acknowledged = len(self.meant)

    async def _turn(self, kind: str, *, counts: bool) -> None:
        """Callers ask one request after another; meanwhile production moves, or does not."""
        options, firsts = self.options, list[float]()
        callers = [asyncio.create_task(self._ask_all(firsts)) for _ in range(options.concurrency)]
        if kind == SWAPPED:
            for _ in range(options.swaps):
                await self._swap()
                await asyncio.sleep(options.pause)
        await asyncio.gather(*callers)
        if counts:
            self.found.firsts[kind] += firsts
            self.found.medians.add(kind, statistics.median(firsts))
            self.found.worst.add(kind, statistics.quantiles(firsts, n=100)[98])

    async def _ask_all(self, firsts: list[float]) -> None:
        for _ in range(self.options.requests // self.options.concurrency):
            first = await self._ask()
            firsts.append(first)

    async def _ask(self) -> float:
        """Seconds to the first token; checks who answered."""
        caller, options, before = self.caller, self.options, self.acknowledged
        body = caller.body(PROMPT, caller.ids(options.visible), options.output)
        headers = {"content-type": "application/json"}
        begun, first = time.perf_counter(), 0.0
        self.found.requests += 1
        try:
            async with caller.client.stream(
                "POST", "/v1/completions", content=body, headers=headers
            ) as answer:
                answer.raise_for_status()
                async for _ in answer.aiter_lines():
                    first = first or time.perf_counter() - begun
        except httpx.HTTPError:
            self.found.lost += 1
            return float("inf")
        # While a swap is under way, either version may answer.
        if answer.headers["x-softprompt-version"] not in self.meant[before - 1 :]:
            self.found.late += 1
        return first


def milliseconds(seconds: list[float]) -> str:
    """Median and most."""
    return f"{1000 * statistics.median(seconds):.1f} | {1000 * max(seconds):.1f}"


def table(found: Found, options: argparse.Namespace) -> str:
    """Markdown."""
    said = (
        f"{found.requests} requests, {len(found.swaps)} swaps: {found.lost} lost, {found.late} "
        "answered by a version that had been swapped out before they were sent.\n"
    )
    lines = [
        f"{options.rows} virtual + {options.visible} visible tokens, {options.concurrency} callers.\n",
        "| | median, ms | most, ms |",
        "| --- | ---: | ---: |",
        f"| upload, until it is resident | {milliseconds(found.upload)} |",
        f"| upload, until its first token | {milliseconds(found.first_answer)} |",
        f"| swap under load, until every new request follows | {milliseconds(found.swaps)} |",
        "",
        said,
        "| traffic | TTFT p50, ms | TTFT p99, ms | p50 ÷ no swaps | p99 ÷ no swaps |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for kind in (ALONE, SWAPPED):
        cuts = statistics.quantiles(found.firsts[kind], n=100)
        lines.append(
            f"| {kind} | {1000 * cuts[49]:.1f} | {1000 * cuts[98]:.1f} "
            f"| {spread(found.medians.ratios(kind, ALONE))} "
            f"| {spread(found.worst.ratios(kind, ALONE))} |"
        )
    return "\n".join(lines)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the demo model")
    parser.add_argument("--rows", type=int, default=20, help="virtual tokens")
    parser.add_argument("--visible", type=int, default=20, help="visible tokens")
    parser.add_argument("--output", type=int, default=8, help="generated tokens")
    parser.add_argument("--uploads", type=int, default=20)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--requests", type=int, default=120, help="per turn")
    parser.add_argument("--swaps", type=int, default=20, help="per turn that has any")
    parser.add_argument("--pause", type=float, default=0.2, help="seconds between swaps")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(given)


async def measured(options: argparse.Namespace, served: Served) -> Found:
    """Everything that is asked of one server."""
    async with calling(served, options.seed) as caller:
        bench = Bench(options, caller)
        await bench.run()
        return bench.found


def main(given: list[str] | None = None) -> None:
    """Run and print Markdown tables."""
    options = arguments(given)
    flags = ("--max-model-len", "512", "--max-num-seqs", str(options.concurrency))
    with serving(options.model, *flags, "--no-enable-prefix-caching") as served:
        found = asyncio.run(measured(options, served))
    print(f"{table(found, options)}\n\n{machine()}")


if __name__ == "__main__":
    main()
