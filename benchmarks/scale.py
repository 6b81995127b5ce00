"""What do ten thousand versions cost? The catalogue, the snapshot, the router, a server's start.

No engine: what is measured is this project's own bookkeeping. For each database the versions are
registered through the catalogue, then read as a start reads them; changes, single looks and choices
are timed at full size. Memory is what Python allocated for the snapshot. The figures to trust are
those of one run beside each other.

    python benchmarks/scale.py                                  # SQLite
    python benchmarks/scale.py --postgres postgresql://…/empty  # both; the database must be empty
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
import tracemalloc
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from side_by_side import machine

from softprompt_serve.artifact import Content
from softprompt_serve.registry.catalog import Catalogue
from softprompt_serve.registry.snapshot import EMPTY
from softprompt_serve.router.choose import choose

if TYPE_CHECKING:
    from collections.abc import Callable

    from softprompt_serve.registry.snapshot import Snapshot

RECORD = {"base_model": "owner/model", "dataset": "tickets", "seed": 1, "method": "prompt_tuning"}
MIB = 1024 * 1024


@dataclass
class Found:
    """Seconds by what was done, and bytes."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)

    def time(self, what: str, work: Callable[[], object]) -> None:
        """Time one piece of work."""
        begun = time.perf_counter()
        work()
        self.seconds.setdefault(what, []).append(time.perf_counter() - begun)


def measured(url: str, options: argparse.Namespace) -> Found:
    """Register everything, then measure at full size."""
    found, rng = Found(), random.Random(options.seed)
    catalogue = Catalogue.open(url)
    try:
        for number in range(options.versions):
            prompt, content = (
                f"p{number % options.prompts}",
                Content("hard", text=f"Text {number}."),
            )
            found.time(
                "register a version",
                lambda p=prompt, c=content: catalogue.add_version(p, None, c, RECORD),
            )
            if number % 1000 == 0:
                print(f"  {number} of {options.versions}", file=sys.stderr, flush=True)
        for number in range(options.prompts):
            catalogue.set_alias(f"p{number}", "production", "v1")
        snapshot = _read(catalogue, found)
        for _ in range(options.changes):
            prompt = f"p{rng.randrange(options.prompts)}"
            version = rng.choice(list(snapshot.prompts[prompt].versions))
            found.time(
                "move an alias",
                lambda p=prompt, v=version: catalogue.set_alias(p, "production", v),
            )
            before, holder = snapshot, list["Snapshot"]()
            found.time(
                "see the change (every replica)",
                lambda b=before, h=holder: h.append(catalogue.snapshot(b)),
            )
            snapshot = holder[0]
        for _ in range(options.choices):
            prompt = f"p{rng.randrange(options.prompts)}"
            found.time("choose a version", lambda p=prompt, s=snapshot: choose(s, p))
    finally:
        catalogue.close()
    return found


def _read(catalogue: Catalogue, found: Found) -> Snapshot:
    """Read everything as a start does, and see what the snapshot takes."""
    for _ in range(3):
        found.time("read everything (a start)", lambda: catalogue.snapshot(EMPTY))
    tracemalloc.start()
    snapshot = catalogue.snapshot(EMPTY)
    found.bytes["snapshot"] = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return snapshot


def table(all_found: dict[str, Found], options: argparse.Namespace) -> str:
    """Markdown: median and 99th percentile of each, by database."""
    names = list(all_found)
    lines = [
        f"{options.versions} versions of {options.prompts} prompts.\n",
        f"| median, 99th percentile | {' | '.join(names)} |",
        f"| --- |{' ---: |' * len(names)}",
    ]
    for what in all_found[names[0]].seconds:
        cells = [_said(found.seconds[what]) for found in all_found.values()]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    cells = [
        f"{found.bytes['snapshot'] / MIB:.1f} MiB, {found.bytes['snapshot'] / options.versions:.0f} "
        "bytes a version"
        for found in all_found.values()
    ]
    lines.append(f"| snapshot in memory | {' | '.join(cells)} |")
    return "\n".join(lines)


def _said(seconds: list[float]) -> str:
    middle, worst = statistics.median(seconds), sorted(seconds)[int(len(seconds) * 0.99)]
    return ", ".join(
        f"{1e6 * value:.1f} µs" if value < 1e-3 else f"{1e3 * value:.1f} ms"  # noqa: PLR2004
        for value in (middle, worst)
    )


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--versions", type=int, default=10_000)
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--changes", type=int, default=300)
    parser.add_argument("--choices", type=int, default=20_000)
    parser.add_argument("--postgres", help="URL of an empty database")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    """Run and print a Markdown table."""
    options = arguments(given)
    with tempfile.TemporaryDirectory() as scratch:
        urls = {"SQLite": f"sqlite:///{Path(scratch) / 'catalogue.db'}"}
        if options.postgres:
            urls["PostgreSQL"] = options.postgres
        found = {name: measured(url, options) for name, url in urls.items()}
    print(f"{table(found, options)}\n\n{machine()}")


if __name__ == "__main__":
    main()
