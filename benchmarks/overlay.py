"""What does the overlay cost, and what does it save? Everything that does its job, side by side.

Variants take turns in each round, so that a drifting machine hits all alike, and the figures to
trust are ratios within a round. Plain tokens, overlay and native prompt_embeds have equal length: the
version's n rows and the visible tokens, embeddings of both, or as many plain tokens. Beside them: vLLM
without us, with the same plain tokens (what our flags cost); a hard prompt, a text of --hard tokens
instead of n virtual ones; vLLM with a LoRA on the visible tokens alone; native prompt_embeds in vLLM's
engine without HTTP, and PEFT with Transformers' generate, both in this process. Bodies are encoded
before the clock starts, and prefix caching is off, so that every prefill is computed. Sheets say which
lengths and how many callers (cost/sheets.py).

    python benchmarks/overlay.py --model DIR       # the demo model (softprompt_serve.demo.prepare)
    python benchmarks/overlay.py --model DIR --sheets visible --rounds 2
    python benchmarks/overlay.py --model DIR --sheets wide --results DIR   # and tables, charts, turns
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cost.asking import Writer
from cost.chart import Row, chart
from cost.engines import demo_model, random_model, running
from cost.figures import rates, waits
from cost.measuring import Bench
from cost.sheets import ORDER, OVERLAY, SHEETS
from cost.tables import against, means, setup, table
from cost.turns import read, write
from side_by_side import machine

from softprompt_serve.release.plot_frame import Words

if TYPE_CHECKING:
    from cost.measuring import Found
    from cost.sheets import Sheet


def chosen(options: argparse.Namespace) -> dict[str, Sheet]:
    """The sheets that were asked for, with what the command line says otherwise."""
    names = ("rows", "visible", "concurrency", "rounds", "output")
    given = {name: getattr(options, name) for name in names if getattr(options, name)}
    sheets = {name: replace(SHEETS[name], **given) for name in options.sheets}
    if options.variants:
        kept = tuple(name for name in ORDER if name in options.variants)
        sheets = {name: replace(sheet, variants=kept) for name, sheet in sheets.items()}
    return sheets


def measured(options: argparse.Namespace, sheets: dict[str, Sheet]) -> dict[str, Found]:
    """Start what these sheets need, once, and measure them one after another."""
    variants = {variant for sheet in sheets.values() for variant in sheet.variants}
    at_once = max(case.concurrency for sheet in sheets.values() for case in sheet.cases())
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        (shape,) = {sheet.shape for sheet in sheets.values()}
        model = (
            random_model(options.model, shape, scratch / shape, options.dtype)
            if shape
            else demo_model(options.model, options.dtype)
        )
        rng = random.Random(options.seed)
        writer = Writer(model.hidden_size, model.vocabulary, options.dtype, options.hard, rng)
        with running(model, variants, at_once, scratch) as engines:
            print("  the engines are up", file=sys.stderr, flush=True)
            bench = Bench(engines, writer)
            return asyncio.run(bench.measure_all(sheets))


def picture(name: str, sheet: Sheet, found: Found) -> str:
    """The ratios of a sheet as SVG."""
    first = sheet.variants[0]
    rows = [
        Row(
            sheet.label(case),
            variant,
            tuple(rates(turns[variant], turns[first])),
            tuple(waits(turns[variant], turns[first])),
            ours=variant == OVERLAY,
        )
        for case, turns in found.items()
        for variant in sheet.variants[1:]
    ]
    words = Words(name, sheet.title, f"Every variant divided by {first}, within each round.")
    return chart(words, rows, left=f"tokens/s ÷ {first}", right=f"time to first token ÷ {first}")


def page(name: str, sheet: Sheet, found: Found, options: argparse.Namespace) -> str:
    """Markdown of a sheet."""
    drawn = [f"![{sheet.title}]({options.stem}-{name}.svg)\n"] if options.results else []
    lines = [
        f"### {sheet.title}\n",
        f"{setup(sheet, options.dtype, options.hard)}\n",
        *drawn,
        table(sheet, found),
        "",
        *means(sheet, found),
        *against(sheet, found, OVERLAY),
    ]
    return "\n".join(lines) + "\n"


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the demo model")
    parser.add_argument(
        "--sheets",
        nargs="+",
        choices=SHEETS,
        default=[name for name, sheet in SHEETS.items() if not sheet.shape],
    )
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=ORDER,
        metavar="NAME",
        help=f"no others but these: {'; '.join(ORDER)}",
    )
    parser.add_argument("--hard", type=int, default=472, help="tokens of the hard prompt")
    parser.add_argument("--dtype", default="float32")
    for name, meaning in (
        ("rows", "virtual tokens"),
        ("visible", "visible tokens"),
        ("concurrency", "callers at once"),
        ("rounds", "rounds, one for all or one for each number of callers"),
    ):
        parser.add_argument(f"--{name}", type=int, nargs="+", help=f"{meaning}, instead of its own")
    parser.add_argument("--output", type=int, help="generated tokens, instead of its own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, help="a folder for tables, charts and every turn")
    parser.add_argument(
        "--again", action="store_true", help="measure nothing; read the turns in --results"
    )
    parser.add_argument("--stem", default="overlay", help="what the files' names begin with")
    options = parser.parse_args(given)
    for name in ("rows", "visible", "concurrency", "rounds"):
        if (values := getattr(options, name)) is not None:
            setattr(options, name, tuple(values))
    if len({SHEETS[name].shape for name in options.sheets}) > 1:
        parser.error("these sheets are of different models")
    options.model = options.model.absolute()
    return options


def keep(name: str, sheet: Sheet, found: Found, options: argparse.Namespace) -> None:
    """Write a sheet's table, chart and turns."""
    options.results.mkdir(parents=True, exist_ok=True)
    start = options.results / f"{options.stem}-{name}"
    start.with_suffix(".md").write_text(page(name, sheet, found, options))
    start.with_suffix(".svg").write_text(picture(name, sheet, found))
    start.with_suffix(".json").write_text(write(found))


def main(given: list[str] | None = None) -> None:
    """Run, print Markdown tables, and write what was asked for."""
    options = arguments(given)
    sheets = chosen(options)
    if options.again:
        found = {
            name: read((options.results / f"{options.stem}-{name}.json").read_text())
            for name in sheets
        }
    else:
        found = measured(options, sheets)
    for name, sheet in sheets.items():
        print(page(name, sheet, found[name], options))
        if options.results:
            keep(name, sheet, found[name], options)
    print(machine())


if __name__ == "__main__":
    main()
