"""What does vLLM's own load generator say? `vllm bench serve`, against plain tokens and a version.

The same random data set three times, in turn: the base model, the base model with n tokens more in
front, a version of n virtual tokens. Its requests and its definitions are others', so that its
figures can be held against theirs. It is called as a module, since the command `vllm` of
the CPU build does not start.

    python benchmarks/load_tool.py --model DIR      # the demo model (softprompt_serve.demo.prepare)
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
from collections import defaultdict
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from serving import BASE, calling, serving
from side_by_side import machine

if TYPE_CHECKING:
    from serving import Served

PROMPT: Final = "bench"
SHOWN: Final = (
    ("output_throughput", "tokens/s"),
    ("median_ttft_ms", "TTFT p50"),
    ("p99_ttft_ms", "TTFT p99"),
    ("median_tpot_ms", "TPOT p50"),
    ("p99_tpot_ms", "TPOT p99"),
    ("median_itl_ms", "ITL p50"),
    ("p99_itl_ms", "ITL p99"),
)


def flags(
    options: argparse.Namespace, url: str, model: str, tokens: int, concurrency: int
) -> list[str]:
    """What `vllm bench serve` is called with."""
    return [
        *("--backend", "openai", "--endpoint", "/v1/completions", "--base-url", url),
        *("--model", model, "--tokenizer", str(options.model.absolute())),
        *("--dataset-name", "random", "--random-input-len", str(tokens)),
        *("--random-output-len", str(options.output), "--ignore-eos", "--temperature", "0"),
        *("--seed", str(options.seed), "--num-prompts", str(max(8, 2 * concurrency))),
        *("--max-concurrency", str(concurrency), "--num-warmups", str(min(concurrency, 4))),
        *(
            "--percentile-metrics",
            "ttft,tpot,itl",
            "--metric-percentiles",
            "50,99",
            "--disable-tqdm",
        ),
    ]


def asked(given: list[str]) -> dict[str, Any]:
    """One call of the tool; what it prints goes where progress goes.

    Raises:
        RuntimeError: a request failed.
    """
    # Nothing of ours is loaded into the tool.
    os.environ["VLLM_PLUGINS"] = ""
    from vllm.benchmarks.serve import add_cli_args
    from vllm.benchmarks.serve import main as bench_serve
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    add_cli_args(parser)
    with redirect_stdout(sys.stderr):
        found: dict[str, Any] = bench_serve(parser.parse_args(given))
    if found["failed"]:
        msg = f"{found['failed']} requests failed."
        raise RuntimeError(msg)
    return found


def table(found: dict[tuple[int, str], list[dict[str, Any]]]) -> str:
    """Markdown: medians over rounds, times in milliseconds."""
    lines = [
        f"| at once | | {' | '.join(name for _, name in SHOWN)} |",
        f"| ---: | --- |{' ---: |' * len(SHOWN)}",
    ]
    for (concurrency, name), rounds in found.items():
        values = (statistics.median(one[key] for one in rounds) for key, _ in SHOWN)
        lines.append(
            f"| {concurrency} | {name} | {' | '.join(f'{value:.1f}' for value in values)} |"
        )
    return "\n".join(lines)


async def upload(served: Served, rows: int) -> None:
    """Make ``bench@v1`` resident."""
    async with calling(served) as caller:
        await caller.upload(PROMPT, "v1", caller.rows(rows))


def measured(
    options: argparse.Namespace, served: Served
) -> dict[tuple[int, str], list[dict[str, Any]]]:
    """Rounds of all variants, each time the tool anew."""
    asyncio.run(upload(served, options.rows))
    visible, rows = options.visible, options.rows
    variants = (
        (f"{BASE}, {visible} tokens", BASE, visible),
        (f"{BASE}, {visible + rows} tokens", BASE, visible + rows),
        (f"{PROMPT}@v1, {visible} tokens + {rows} virtual", f"{PROMPT}@v1", visible),
    )
    found: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    for concurrency in options.concurrency:
        for number in range(options.rounds):
            for name, model, tokens in variants:
                given = flags(options, served.url, model, tokens, concurrency)
                found[concurrency, name].append(asked(given))
            print(f"  {concurrency} at once: round {number + 1}", file=sys.stderr, flush=True)
    return dict(found)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the demo model")
    parser.add_argument("--rows", type=int, default=20, help="virtual tokens")
    parser.add_argument("--visible", type=int, default=100, help="visible tokens")
    parser.add_argument("--output", type=int, default=16, help="generated tokens")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    """Run and print a Markdown table, and how the tool was called."""
    options = arguments(given)
    at_once = ("--max-num-seqs", str(max(options.concurrency)))
    with serving(
        options.model, "--max-model-len", "2048", *at_once, "--no-enable-prefix-caching"
    ) as served:
        found = measured(options, served)
    print(f"{table(found)}\n\n{machine()}")


if __name__ == "__main__":
    main()
