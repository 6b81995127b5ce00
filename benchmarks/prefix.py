"""What do cached virtual tokens save, and does the first user after a swap pay? Side by side.

One server with the prefix cache on. Three sorts of requests take turns: the first of a version that
was pinned and never asked before (its virtual tokens are computed), the first after a version came
into production (it was warmed up), and later ones of the same versions. Visible tokens differ each
time, so that virtual ones alone are reused. Only whole blocks are, so that n below one block (128
tokens on CPU, 16 on CUDA) saves nothing. The figures to trust are the ratios within a round.

    python benchmarks/prefix.py --model DIR       # the demo model (softprompt_serve.demo.prepare)
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from serving import Caller, Served, calling, parser, run
from side_by_side import Figures, first_token, machine, rounds, spread

if TYPE_CHECKING:
    import argparse

COLD, SWAPPED, LATER = "first, pinned", "first after a swap", "later"
KINDS = (COLD, SWAPPED, LATER)


class Bench:
    """Fresh versions for each round, and the clock."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.found = {rows: Figures() for rows in options.rows}

    async def run(self, served: Served) -> None:
        """Rounds over all lengths; the first warms up."""
        async with calling(served, self.options.seed) as caller:
            for number in rounds(self.options.rounds):
                for rows in self.options.rows:
                    times = await self._round(caller, rows, number)
                    if number:
                        for kind, seconds in times.items():
                            self.found[rows].add(kind, statistics.median(seconds))

    async def _round(self, caller: Caller, rows: int, number: int) -> dict[str, list[float]]:
        times: dict[str, list[float]] = {kind: [] for kind in KINDS}
        prompt = f"n{rows}"
        for each in range(self.options.each):
            pinned, swapped = (f"{kind}{number}-{each}" for kind in ("cold", "swap"))
            for version in (pinned, swapped):
                await caller.upload(prompt, version, caller.rows(rows))
            times[COLD].append(await self._ask(caller, f"{prompt}@{pinned}"))
            await caller.alias(prompt, swapped)
            times[SWAPPED].append(await self._ask(caller, prompt))
            times[LATER].append(await self._ask(caller, f"{prompt}@{pinned}"))
        return times

    async def _ask(self, caller: Caller, model: str) -> float:
        visible = caller.ids(self.options.visible)
        return await first_token(caller.client, caller.body(model, visible, 1))


def table(bench: Bench) -> str:
    """Markdown: time to the first token by n, and ratios to a version never asked before."""
    options = bench.options
    lines = [
        (
            f"{options.visible} visible tokens, one at a time, {options.each} versions of each sort a "
            f"round, {options.rounds} rounds.\n"
        ),
        "| virtual tokens | request | TTFT, ms | ÷ first, pinned |",
        "| ---: | --- | ---: | ---: |",
    ]
    lines += [
        f"| {rows} | {kind} | {1000 * figures.median(kind):.1f} "
        f"| {spread(figures.ratios(kind, COLD))} |"
        for rows, figures in bench.found.items()
        for kind in KINDS
    ]
    return "\n".join(lines)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    line = parser(__doc__)
    line.add_argument("--rows", type=int, nargs="+", default=[20, 128, 256], help="n to measure")
    line.add_argument("--visible", type=int, default=32, help="visible tokens")
    line.add_argument("--each", type=int, default=5, help="versions of each sort, per round")
    return line.parse_args(given)


def main(given: list[str] | None = None) -> None:
    """Run and print a Markdown table."""
    options = arguments(given)
    bench = Bench(options)
    run(bench, options, "--max-num-seqs", "4", bank_rows=32_768)
    print(f"{table(bench)}\n\n{machine()}")


if __name__ == "__main__":
    main()
