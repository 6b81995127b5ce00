"""More versions than the bank holds, asked for as the world asks: a few often, most of them rarely.

One server for each size of the bank. Every version is uploaded and may answer; which one a request
names is drawn from Zipf's law. A version that is not resident is loaded for the request that names
it, from the worker's host tier or from the blob store, and the least recently used leaves. Hits and
loads are the server's own counts, times are the callers'.

    python benchmarks/zipf.py --demo DIR --banks 300 100 50 16       # random weights, two layers
    python benchmarks/zipf.py --demo DIR --banks 100 --host-mib 0    # all loads from the blob store
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from fire.memory import Watch
from fire.tiny import make
from prometheus_client.parser import text_string_to_metric_families
from serving import Caller, Served, calling, serving
from side_by_side import machine

if TYPE_CHECKING:
    from collections.abc import Mapping

PROMPT = "zipf"
MISSES, WAITED = (f"softprompt_bank_lease_wait_seconds_{part}" for part in ("count", "sum"))
EVICTIONS = "softprompt_bank_evictions_total"
_SHOWN_MIB = 50  # of a process; helpers of Python's own are smaller


def weights(versions: int, exponent: float) -> list[float]:
    """Zipf's law: the share of traffic of each version, most popular first; they sum to 1."""
    raw = [1.0 / rank**exponent for rank in range(1, versions + 1)]
    return [weight / sum(raw) for weight in raw]


def best(versions: int, exponent: float, bank: int) -> float:
    """The hit rate of a bank that held the most popular versions and never changed."""
    return sum(weights(versions, exponent)[:bank])


@dataclass
class Run:
    """What became of the requests to one server.

    Attributes:
        bank: how many versions it holds.
        ttft: seconds, of each that was answered.
        statuses: how many ended with which HTTP status or error code.
        counted: what the server counted meanwhile, by series.
        rss: MiB by process, after the uploads and after the traffic.
    """

    bank: int
    uploads_seconds: float = 0.0
    seconds: float = 0.0
    ttft: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    counted: dict[str, float] = field(default_factory=dict)
    rss: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def asked(self) -> int:
        """Requests."""
        return sum(self.statuses.values())


async def measured(options: argparse.Namespace, served: Served, bank: int) -> Run:
    """Upload all, then ask."""
    run, watch = Run(bank), Watch(served.pid)
    async with calling(served, options.seed) as caller:
        begun = time.perf_counter()
        for number in range(options.versions):
            await caller.upload(PROMPT, f"v{number}", caller.rows(options.rows))
        run.uploads_seconds = time.perf_counter() - begun
        await _ask_all(options, caller, options.warm_up, Run(bank))
        watch.look(0.0)
        before = await _counts(caller.client)
        begun = time.perf_counter()
        await _ask_all(options, caller, options.requests, run)
        run.seconds = time.perf_counter() - begun
        after = await _counts(caller.client)
        watch.look(run.seconds)
    run.counted = {name: value - before.get(name, 0.0) for name, value in after.items()}
    run.rss = {
        name.rpartition(" ")[0]: (samples[0].rss_mib, samples[-1].rss_mib)
        for name, samples in watch.samples.items()
        if samples[-1].rss_mib >= _SHOWN_MIB
    }
    return run


async def _ask_all(options: argparse.Namespace, caller: Caller, requests: int, run: Run) -> None:
    """So many at once; each next one as soon as one has ended."""
    shares = weights(options.versions, options.exponent)
    names = caller.rng.choices(range(options.versions), shares, k=requests)
    waiting = iter(names)

    async def user() -> None:
        for number in waiting:
            # Popular versions are not those that were uploaded last.
            version = number * 7919 % options.versions
            body = caller.body(f"{PROMPT}@v{version}", caller.ids(options.visible), options.output)
            await _ask(caller.client, body, run)

    await asyncio.gather(*(user() for _ in range(options.concurrency)))


async def _ask(client: httpx.AsyncClient, body: bytes, run: Run) -> None:
    begun, first, whole = time.perf_counter(), 0.0, b""
    headers = {"content-type": "application/json"}
    async with client.stream("POST", "/v1/completions", content=body, headers=headers) as answer:
        async for part in answer.aiter_bytes():
            first = first or time.perf_counter() - begun
            whole += part
    if answer.status_code != httpx.codes.OK:
        code = answer.headers.get("x-softprompt-error", "")
        run.statuses[f"{answer.status_code} {code}".strip()] += 1
    elif b"[DONE]" not in whole or b'"error"' in whole:
        run.statuses["cut off"] += 1
    else:
        run.statuses["200"] += 1
        run.ttft.append(first)


async def _counts(client: httpx.AsyncClient) -> dict[str, float]:
    """The bank's series on ``/metrics``, without what varies with a version."""
    text = (await client.get("/metrics")).text
    return {
        f"{sample.name}{_labels(sample.labels)}": sample.value
        for family in text_string_to_metric_families(text)
        if family.name.startswith("softprompt_bank_")
        for sample in family.samples
        if "le" not in sample.labels and "version" not in sample.labels
    }


def _labels(labels: Mapping[str, str]) -> str:
    inside = ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
    return f"{{{inside}}}" if inside else ""


def table(runs: list[Run], options: argparse.Namespace) -> str:
    """Markdown: a row for each size of the bank, then memory."""
    lines = [
        (
            f"{options.versions} versions of {options.rows} virtual tokens, Zipf's exponent "
            f"{options.exponent:g}, {options.requests} requests, {options.concurrency} at once, "
            f"{options.visible} visible tokens, {options.output} generated; host tier "
            f"{options.host_mib} MiB.\n"
        ),
        (
            "| bank, versions | requests/s | hits | most popular alone | loads: host, blob | mean "
            "load, ms: host, blob | a miss waits, ms | TTFT, ms: 50 %, 99 % | not answered |"
        ),
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
        *(_row(run, options) for run in runs),
        "\n| bank, versions | process | RSS before the traffic, MiB | after |",
        "| ---: | --- | ---: | ---: |",
    ]
    lines += [
        f"| {run.bank} | {name} | {before:.0f} | {after:.0f} |"
        for run in runs
        for name, (before, after) in run.rss.items()
    ]
    return "\n".join(lines)


def _row(run: Run, options: argparse.Namespace) -> str:
    counted = run.counted
    loads = [
        counted.get(f"softprompt_bank_load_seconds_count{{source={source}}}", 0.0)
        for source in ("host", "blob")
    ]
    sums = [
        counted.get(f"softprompt_bank_load_seconds_sum{{source={source}}}", 0.0)
        for source in ("host", "blob")
    ]
    misses = counted.get(MISSES, 0.0)
    ideal = best(options.versions, options.exponent, run.bank)
    refused = "; ".join(f"{n} x {what}" for what, n in run.statuses.most_common() if what != "200")
    means = ", ".join(_ms(s, n) for s, n in zip(sums, loads, strict=True))
    return (
        f"| {run.bank} | {run.asked / run.seconds:.1f} | {1 - misses / run.asked:.1%} "
        f"| {ideal:.1%} | {loads[0]:.0f}, {loads[1]:.0f} | {means} "
        f"| {_ms(counted.get(WAITED, 0.0), misses)} "
        f"| {1000 * _quantile(run.ttft, 0.5):.0f}, {1000 * _quantile(run.ttft, 0.99):.0f} "
        f"| {refused or 'none'} |"
    )


def _ms(total: float, count: float) -> str:
    return f"{1000 * total / count:.1f}" if count else "-"


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument(
        "--demo", type=Path, required=True, help="the demo model, for its tokenizer"
    )
    parser.add_argument("--versions", type=int, default=300)
    parser.add_argument("--banks", type=int, nargs="+", default=[300, 100, 50, 16], help="versions")
    parser.add_argument("--host-mib", type=int, default=256, help="host tier of each worker")
    parser.add_argument("--exponent", type=float, default=1.0, help="of Zipf's law")
    parser.add_argument("--rows", type=int, default=20, help="virtual tokens of each")
    parser.add_argument("--visible", type=int, default=16, help="visible tokens")
    parser.add_argument("--output", type=int, default=4, help="generated tokens")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--warm-up", type=int, default=300, help="requests that don't count")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    """Run and print Markdown."""
    options = arguments(given)
    runs = []
    with tempfile.TemporaryDirectory() as scratch:
        model = make(Path(scratch) / "model", options.demo)
        flags = ("--max-model-len", "512", "--max-num-seqs", str(options.concurrency))
        for number, bank in enumerate(options.banks, start=1):
            with serving(
                model,
                *(*flags, "--enforce-eager"),
                bank_rows=bank * options.rows,
                host_tier_bytes=options.host_mib * 1024 * 1024,
            ) as served:
                runs.append(asyncio.run(measured(options, served, bank)))
            print(f"  {number} of {len(options.banks)} banks", file=sys.stderr, flush=True)
    print(f"{table(runs, options)}\n\n{machine()}")


if __name__ == "__main__":
    main()
