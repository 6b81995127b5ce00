"""Does it matter how many versions a batch mixes? One, some, a thousand, side by side.

One server holds a thousand versions. In each round every case sends the same number of requests, as
many at once, over the first 1, 8, 64, … of them in turn; the figures to trust are the ratios to one
version within a round. Prefix caching is off: with it, one version's whole blocks would be reused.

    python benchmarks/mixed.py --model DIR        # the demo model (softprompt_serve.demo.prepare)
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from serving import BASE, Caller, Served, calling, parser, run
from side_by_side import Figures, first_tokens, machine, rotated, rounds, spread

if TYPE_CHECKING:
    import argparse

PLAIN = "plain tokens"


class Bench:
    """The cases, and the clock."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.cases = [PLAIN, *(f"{n} version{'s' * (n > 1)}" for n in options.versions)]
        self.rates, self.firsts = Figures(), Figures()

    async def run(self, served: Served) -> None:
        """Upload all versions, then go round the cases; the first round warms up."""
        options = self.options
        async with calling(served, options.seed) as caller:
            begun = time.perf_counter()
            for number in range(max(options.versions)):
                await caller.upload("mixed", f"v{number}", caller.rows(options.rows))
            self.upload_seconds = time.perf_counter() - begun
            for number in rounds(options.rounds):
                for case in rotated(self.cases, number):
                    rate, first = await self._turn(caller, case)
                    if number:
                        self.rates.add(case, rate)
                        self.firsts.add(case, first)

    async def _turn(self, caller: Caller, case: str) -> tuple[float, float]:
        """Tokens per second, and the median of seconds to the first."""
        options = self.options
        count = 0 if case == PLAIN else int(case.split(maxsplit=1)[0])

        def body(number: int) -> bytes:
            if count:
                model = f"mixed@v{number * 7919 % count}"
                return caller.body(model, caller.ids(options.visible), options.output)
            return caller.body(BASE, caller.ids(options.rows + options.visible), options.output)

        bodies = [body(number) for number in range(options.requests)]
        firsts, seconds = await first_tokens(caller.client, bodies, options.concurrency)
        return options.requests * options.output / seconds, statistics.median(firsts)


def table(bench: Bench) -> str:
    """Markdown: throughput and time to the first token, and their ratios to one version."""
    options, one = bench.options, bench.cases[1]
    lines = [
        (
            f"{options.requests} requests a turn, {options.concurrency} at once, {options.rows} "
            f"virtual + {options.visible} visible tokens, {options.output} generated; "
            f"{options.rounds} rounds. {max(options.versions)} versions were uploaded in "
            f"{bench.upload_seconds:.1f} s.\n"
        ),
        "| in the batch | tokens/s | tokens/s ÷ one version | TTFT ÷ one version |",
        "| --- | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {case} | {bench.rates.median(case):.1f} | {spread(bench.rates.ratios(case, one))} "
        f"| {spread(bench.firsts.ratios(case, one))} |"
        for case in bench.cases
    ]
    return "\n".join(lines)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    line = parser(__doc__)
    line.add_argument("--versions", type=int, nargs="+", default=[1, 8, 64, 1000])
    line.add_argument("--rows", type=int, default=20, help="virtual tokens of each")
    line.add_argument("--visible", type=int, default=20, help="visible tokens")
    line.add_argument("--output", type=int, default=8, help="generated tokens")
    line.add_argument("--concurrency", type=int, default=64)
    line.add_argument("--requests", type=int, default=128, help="per turn")
    return line.parse_args(given)


def main(given: list[str] | None = None) -> None:
    """Run and print a Markdown table."""
    options = arguments(given)
    bench = Bench(options)
    flags = ("--max-num-seqs", str(options.concurrency), "--no-enable-prefix-caching")
    run(bench, options, *flags, bank_rows=max(options.versions) * options.rows)
    print(f"{table(bench)}\n\n{machine()}")


if __name__ == "__main__":
    main()
