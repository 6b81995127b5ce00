"""What is waiting asleep worth where cores are few? Two servers in turns, alike but for ``SOFTPROMPT_DOZE``.

Where vLLM's processes wait for one another they look again without a pause; with the setting they
sleep for a moment between two looks. Whoever has fewer cores than processes then has time left for the
model and the API server. Ratios are within a round.

    python benchmarks/doze.py --model DIR     # the demo model (softprompt_serve.demo.prepare)
"""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING, Final

from serving import Caller, Served, calling, parser, serving
from side_by_side import Figures, interval, machine

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

SPINS, DOZES = VARIANTS = ("as vLLM waits", "asleep")
PROMPT: Final = "bench"
QUIET_SECONDS: Final = 1.5
"""vLLM's readers look for a second after their last message; until then they'd disturb the other."""


class Bench:
    """Both servers' callers."""

    def __init__(self, options: argparse.Namespace, callers: dict[str, Caller]) -> None:
        self.options = options
        self.callers = callers
        self.rates = {crowd: Figures() for crowd in options.concurrency}

    async def run(self) -> None:
        """All rounds; the first warms up."""
        for caller in self.callers.values():
            await caller.upload(PROMPT, "v1", caller.rows(self.options.rows))
            await caller.alias(PROMPT, "v1")
        for number in range(self.options.rounds + 1):
            for variant, caller in self.callers.items():
                for crowd, figures in self.rates.items():
                    rate = await self._turn(caller, crowd)
                    if number:
                        figures.add(variant, rate)
                await asyncio.sleep(QUIET_SECONDS)
            print(f"  round {number} of {self.options.rounds}", file=sys.stderr, flush=True)

    async def _turn(self, caller: Caller, crowd: int) -> float:
        """Tokens per second of some callers, each asking a few times."""

        async def ask() -> None:
            for _ in range(self.options.requests):
                visible = caller.ids(self.options.visible)
                body = caller.body(PROMPT, visible, self.options.output)
                async with caller.client.stream("POST", "/v1/completions", content=body) as answer:
                    answer.raise_for_status()
                    await answer.aread()

        begun = time.perf_counter()
        await asyncio.gather(*(ask() for _ in range(crowd)))
        return crowd * self.options.requests * self.options.output / (time.perf_counter() - begun)


def table(bench: Bench) -> str:
    """Markdown: rates and their ratio within a round."""
    options = bench.options
    lines = [
        (
            f"{options.rows} virtual + {options.visible} visible tokens, {options.output} generated, "
            f"{options.requests} requests of each caller, {options.rounds} rounds.\n"
        ),
        "| callers | as vLLM waits, tokens/s | asleep | ratio, mean with its 95 % interval |",
        "| ---: | ---: | ---: | ---: |",
        *(
            f"| {crowd} | {figures.median(SPINS):.1f} | {figures.median(DOZES):.1f} "
            f"| {interval(figures.ratios(DOZES, SPINS))} |"
            for crowd, figures in bench.rates.items()
        ),
    ]
    return "\n".join(lines)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = parser(__doc__)
    made.add_argument("--rows", type=int, default=20, help="virtual tokens")
    made.add_argument("--visible", type=int, default=64, help="visible tokens")
    made.add_argument("--output", type=int, default=32, help="generated tokens")
    made.add_argument("--requests", type=int, default=2, help="of each caller in a turn")
    made.add_argument("--concurrency", type=int, nargs="+", default=[1, 4, 16])
    return made.parse_args(given)


async def measure(options: argparse.Namespace, served: dict[str, Served]) -> str:
    """Ask both; the table."""
    async with AsyncExitStack() as stack:
        callers = {
            variant: await stack.enter_async_context(calling(one, options.seed))
            for variant, one in served.items()
        }
        bench = Bench(options, callers)
        await bench.run()
        return table(bench)


def main(given: list[str] | None = None) -> None:
    """Serve twice, ask in turns, print a Markdown table."""
    options = arguments(given)
    model: Path = options.model
    flags = ("--max-model-len", "512", "--max-num-seqs", "16")
    with ExitStack() as stack:
        served = {
            variant: stack.enter_context(serving(model, *flags, doze=variant == DOZES))
            for variant in VARIANTS
        }
        print(f"{asyncio.run(measure(options, served))}\n\n{machine()}")


if __name__ == "__main__":
    main()
