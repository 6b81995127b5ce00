"""How long does a start take with ten thousand versions registered? The same model, three catalogues.

One after another, a server starts with an empty catalogue, with all versions registered of which
only those of aliases are wanted resident, and with all of them wanted by a bank for a hundredth.
The catalogue is filled through the catalogue itself, with its blobs, before the clock runs. What is
ours of a start is timed inside: from the catalogue's opening until names may be asked for.

    python benchmarks/starting.py --demo DIR          # random weights, two layers
    python benchmarks/starting.py --demo DIR --alone  # our own part, without an engine
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import torch
from fire.memory import Watch
from fire.tiny import SHAPE, make
from serving import ADMIN, TOKEN, serving
from side_by_side import machine

from softprompt_serve.artifact import Content
from softprompt_serve.registry.catalog import Catalogue
from softprompt_serve.registry.database import url_of
from softprompt_serve.registry.objects import open_blobs
from softprompt_serve.settings import Settings
from softprompt_serve.testing import FakeWorkers, service_for_tests

TIMED = "--serve-with-a-clock"
RECORD = {"dataset": "tickets", "seed": 1, "method": "prompt_tuning"}


@dataclass(frozen=True, slots=True)
class Start:
    """One start: seconds in all and of our own part, what is resident, MiB of the API server."""

    whole_seconds: float
    own_seconds: dict[str, float]
    resident: int
    rss_mib: float


def contents(options: argparse.Namespace) -> list[Content]:
    """What the versions are; one in eight of them a text."""
    shape = (options.rows, SHAPE["hidden_size"])
    generator = torch.Generator().manual_seed(options.seed)
    return [
        Content("hard", text=f"Text {number}.")
        if number % 8 == 7  # noqa: PLR2004 - one in eight
        else Content(
            "soft",
            None,
            "float32",
            shape,
            (torch.randn(shape, generator=generator) * 0.02).numpy().tobytes(),
        )
        for number in range(options.versions)
    ]


def fill(home: Path, options: argparse.Namespace) -> None:
    """Register the versions, all wanted; each prompt's first is in production."""
    home.mkdir(parents=True)
    store = open_blobs(Settings(home=home))
    found = contents(options)
    with ThreadPoolExecutor(16) as pool:  # each waits for the disk
        list(pool.map(lambda one: store.put(one.digest, one.header, one.data), found))
    catalogue = Catalogue.open(url_of(home / "catalogue.db"))
    try:
        for number, content in enumerate(found):
            prompt = f"p{number % options.prompts}"
            version, _ = catalogue.add_version(prompt, None, content, RECORD)
            if version.version == "v1":
                catalogue.set_alias(prompt, "production", "v1")
            if number % 1000 == 0:
                print(f"  {number} of {options.versions}", file=sys.stderr, flush=True)
    finally:
        catalogue.close()


def unload(home: Path) -> None:
    """Want those of aliases alone."""
    catalogue = Catalogue.open(url_of(home / "catalogue.db"))
    try:
        for version in catalogue.snapshot().versions():
            if version.version != "v1":
                catalogue.set_wanted(version.prompt, version.version, False)  # noqa: FBT003
    finally:
        catalogue.close()


def serve_with_a_clock(file: Path, flags: list[str]) -> None:
    """``softprompt-serve serve``, with what is ours of its start timed."""
    from softprompt_serve.server.service import Service
    from softprompt_serve.vllm_plugin.endpoint import SoftpromptEndpoint
    from softprompt_serve.vllm_plugin.launch import serve

    begin, open_, found = Service.start, SoftpromptEndpoint._open, dict[str, float]()  # noqa: SLF001

    async def opening(*given: object) -> object:
        begun = time.perf_counter()
        service = await open_(*given)  # type: ignore[arg-type]
        found["open"] = time.perf_counter() - begun
        return service

    async def starting(service: Service) -> None:
        begun = time.perf_counter()
        await begin(service)
        found["restore"] = time.perf_counter() - begun
        await asyncio.to_thread(file.write_text, json.dumps(found))

    SoftpromptEndpoint._open = opening  # type: ignore[assignment,method-assign]  # noqa: SLF001
    Service.start = starting  # type: ignore[method-assign]
    serve(flags)


def started(model: Path, home: Path, file: Path, bank_rows: int) -> Start:
    """Start a server and take it down again."""
    begun = time.perf_counter()
    program = (str(Path(__file__).absolute()), TIMED, str(file))
    flags = ("--max-model-len", "512", "--enforce-eager")
    with serving(model, *flags, program=program, home=home, bank_rows=bank_rows) as served:
        seconds = time.perf_counter() - begun
        watch = Watch(served.pid)
        watch.look(0.0)
        own = next(
            samples for name, samples in watch.samples.items() if name.endswith(f" {served.pid}")
        )
        answer = httpx.get(
            f"{served.url}{ADMIN}/residency",
            headers={"authorization": f"Bearer {TOKEN}"},
            timeout=60,
            trust_env=False,
        )
        answer.raise_for_status()
        resident = len(answer.json()["workers"][0]["resident"])
    return Start(seconds, json.loads(file.read_text()), resident, own[0].rss_mib)


async def _alone(home: Path, bank_rows: int) -> Start:
    """Our own part, with workers that only keep count."""
    workers = FakeWorkers(bank_rows, hidden_size=SHAPE["hidden_size"])
    begun = time.perf_counter()
    service = service_for_tests(home, workers=workers)
    own = {"open": time.perf_counter() - begun}
    begun = time.perf_counter()
    await service.start()
    own["restore"] = time.perf_counter() - begun
    await service.close()
    return Start(math.nan, own, len(workers.slots.resident()), math.nan)


def table(starts: dict[str, Start], options: argparse.Namespace) -> str:
    """Markdown: a row for each catalogue."""
    lines = [
        (
            f"{options.versions} versions of {options.prompts} prompts, {options.rows} virtual tokens "
            f"each, a bank of {options.bank_rows} rows.\n"
        ),
        "| catalogue | whole start, s | open, s | read and restore, s | resident | API server, MiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {name} | {_known(start.whole_seconds, 1)} | {start.own_seconds['open']:.2f} "
        f"| {start.own_seconds['restore']:.2f} | {start.resident} | {_known(start.rss_mib, 0)} |"
        for name, start in starts.items()
    ]
    return "\n".join(lines)


def _known(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument(
        "--demo", type=Path, required=True, help="the demo model, for its tokenizer"
    )
    parser.add_argument("--versions", type=int, default=10_000)
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--rows", type=int, default=20, help="virtual tokens of each")
    parser.add_argument("--bank-rows", type=int, default=2000)
    parser.add_argument("--alone", action="store_true", help="without an engine")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    """Run and print a Markdown table."""
    if TIMED in sys.argv[1:2]:
        serve_with_a_clock(Path(sys.argv[2]), sys.argv[3:])
        return
    options = arguments(given)
    starts = dict[str, Start]()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = make(folder / "model", options.demo)
        fill(folder / "wanted", options)
        shutil.copytree(folder / "wanted", folder / "aliased")
        unload(folder / "aliased")
        cases = {"empty": "empty", "aliases' versions wanted": "aliased", "all wanted": "wanted"}
        for name, home in cases.items():
            if options.alone:
                starts[name] = asyncio.run(_alone(folder / home, options.bank_rows))
            else:
                file = folder / f"{home}.json"
                starts[name] = started(model, folder / home, file, options.bank_rows)
            print(f"  {name}: {starts[name]}", file=sys.stderr, flush=True)
    print(f"{table(starts, options)}\n\n{machine()}")


if __name__ == "__main__":
    main()
