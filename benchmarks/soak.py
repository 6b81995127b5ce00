"""Is every answer the right one, and does the server last? Random traffic, changes, and an oracle.

One server with a small bank and a small KV cache, so that versions are evicted and requests
preempted. Callers ask at random (pinned or not, chat or completion, greedy or seeded, streamed, some
go away in the middle) while versions are uploaded, swapped, split, unloaded and removed. Each answer
is compared, distribution by distribution, with the same engine's on native embeddings of exactly the
version that its headers name. What the processes hold is sampled meanwhile. Ends with an error if an
answer was wrong, a request failed, or a lease or a row is held by nobody.

    python benchmarks/soak.py --demo DIR --minutes 30           # a tiny model of random weights
    python benchmarks/soak.py --demo DIR --answers 100000
    python benchmarks/soak.py --demo DIR --model DIR            # the demo model itself
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import sys
import tempfile
import time
from pathlib import Path

import httpx
import torch
from fire import dozing, tiny
from fire.memory import Watch, slope
from fire.oracle import Oracle, Tokens
from fire.traffic import LONG, SEVERAL, Traffic, together
from fire.world import World
from serving import ADMIN, BASE, TOKEN, Served, serving
from side_by_side import machine

VOCABULARY = 2048
SAMPLE_SECONDS = 5.0
SAY_SECONDS = 30.0


class Run:
    """One soak: the callers, who changes things, and who watches."""

    def __init__(self, options: argparse.Namespace, served: Served, folder: Path) -> None:
        self.options = options
        # Given up before the server does, which closes what idles for five seconds.
        limits = httpx.Limits(max_connections=None, keepalive_expiry=1.0)
        self.client = httpx.AsyncClient(
            base_url=served.url, timeout=300, trust_env=False, limits=limits
        )
        self.admin = httpx.AsyncClient(
            base_url=f"{served.url}{ADMIN}",
            headers={"authorization": f"Bearer {TOKEN}"},
            timeout=300,
            trust_env=False,
            limits=limits,
        )
        tokens, rng = Tokens(folder), random.Random(options.seed)
        self.world = World(self.admin, tokens, rng)
        oracle = Oracle(self.client, BASE, tokens)
        self.oracle = oracle
        self.traffic = Traffic(
            client=self.client,
            world=self.world,
            oracle=oracle,
            tokens=tokens,
            rng=rng,
            base=BASE,
            seeded=options.seeded,
            long=options.long,
            several=options.several,
        )
        self.watch = Watch(served.pid)
        self.begun = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begun

    def goes_on(self) -> bool:
        """Until there are enough answers or the time is up."""
        options, tally = self.options, self.traffic.tally
        if options.answers is not None:
            return tally.answers < options.answers
        return self.seconds < options.minutes * 60

    async def go(self) -> None:
        """Everything at once, until it ends."""
        await self.world.populate(8)
        self.begun = time.monotonic()
        callers = [self.traffic.run(self.goes_on) for _ in range(self.options.concurrency)]
        await together([*callers, self._change(), self._sample()])

    async def _change(self) -> None:
        while self.goes_on():
            await self.world.change()
            await asyncio.sleep(self.options.change_seconds)

    async def _sample(self) -> None:
        said = 0.0
        while self.goes_on():
            self.watch.look(self.seconds)
            if self.seconds - said > SAY_SECONDS:
                said, tally = self.seconds, self.traffic.tally
                print(
                    f"  {self.seconds:.0f} s: {tally.answers} answers, {tally.mismatch} wrong, "
                    f"{len(tally.failed)} failed, {sum(self.world.changes.values())} changes",
                    file=sys.stderr,
                    flush=True,
                )
            await asyncio.sleep(SAMPLE_SECONDS)

    async def leftovers(self) -> dict[str, int]:
        """What is held although nobody asks for anything any more."""
        deadline = time.monotonic() + 30
        while True:
            found = (await self.admin.get("/residency")).json()
            held = {
                "leases": sum(found["leases"].values()),
                "rows held by requests": sum(
                    sum(worker.get("held", {}).values()) for worker in found["workers"]
                ),
            }
            if not any(held.values()) or time.monotonic() > deadline:
                return held
            await asyncio.sleep(0.5)

    async def counted(self) -> dict[str, int]:
        """What the server counted: preemptions, evictions, cached tokens."""
        text = (await self.client.get("/metrics")).text
        names = {
            "preemptions": "vllm:num_preemptions_total",
            "evictions": "softprompt_bank_evictions_total",
            "loads": "softprompt_bank_loads_total",
            "tokens from the prefix cache": "vllm:prefix_cache_hits_total",
        }
        return {what: int(_sum(text, name)) for what, name in names.items()}

    async def close(self) -> None:
        await self.client.aclose()
        await self.admin.aclose()


def _sum(text: str, name: str) -> float:
    return sum(float(v) for v in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


def report(run: Run, counted: dict[str, int], held: dict[str, int]) -> str:
    """Markdown: what was asked, what came of it, what the processes held."""
    tally, world = run.traffic.tally, run.world
    rows = {
        "answers compared": tally.answers,
        "equal, token for token": tally.equal,
        "equal until two tokens were as likely": tally.tie,
        "**wrong**": tally.mismatch,
        "held against another version's answer too": tally.controls,
        "of those, noticed": tally.noticed,
        "failed requests": len(tally.failed),
        "callers that went away": tally.cancelled,
        "versions that answered": len(tally.digests),
        **{f"refused, `{code}`": count for code, count in sorted(tally.refused.items())},
        **{f"changes, {what}": count for what, count in sorted(world.changes.items())},
        **{f"changes refused, `{code}`": count for code, count in sorted(world.refused.items())},
        **counted,
        **{f"left over, {what}": count for what, count in held.items()},
    }
    setup = (
        f"{run.seconds / 60:.1f} minutes, {run.options.concurrency} callers, seed "
        f"{run.options.seed}, {run.oracle.asked} native answers to compare with.\n"
    )
    lines = [
        setup,
        "| | |",
        "| --- | ---: |",
        *(f"| {what} | {count} |" for what, count in rows.items()),
        "",
        "| process | RSS first, MiB | last | most | slope, MiB an hour | threads | open files |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, samples in run.watch.samples.items():
        first, last = samples[0], samples[-1]
        most = max(sample.rss_mib for sample in samples)
        lines.append(
            f"| {name.rpartition(' ')[0]} | {first.rss_mib:.0f} | {last.rss_mib:.0f} | {most:.0f} "
            f"| {slope(samples):+.1f} | {first.threads} → {last.threads} "
            f"| {first.files} → {last.files} |"
        )
    return "\n".join(lines)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--demo", type=Path, required=True, help="folder of the demo model")
    parser.add_argument("--model", type=Path, help="serve this one; else a tiny one is made")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--answers", type=int, help="stop after so many, not after a time")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--change-seconds", type=float, default=1.0, help="between changes")
    parser.add_argument("--bank-rows", type=int, default=1200)
    parser.add_argument(
        "--metric-arms",
        type=int,
        default=50,
        help="versions that have series of their own, 42 kB each: enough are soon there, so that what "
        "still grows is a leak",
    )
    parser.add_argument("--cache-bytes", type=int, default=3 * 2**20, help="of the KV cache")
    parser.add_argument(
        "--seeded",
        type=float,
        default=0.0,
        help="share of requests that are sampled with a seed; on the CPU vLLM 0.32 ends where the "
        "prefill of one comes in chunks, as it rewinds a generator, which the CPU's can't",
    )
    parser.add_argument(
        "--long",
        type=float,
        default=LONG,
        help="share of requests that outgrow the KV cache's blocks",
    )
    parser.add_argument(
        "--several", type=float, default=SEVERAL, help="share of greedy requests for three choices"
    )
    parser.add_argument("--log", type=Path, help="keep the server's log here")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(given)


async def soak(options: argparse.Namespace, served: Served, folder: Path) -> int:
    """Run, print the report, and say how it went."""
    run = Run(options, served, folder)
    try:
        await run.go()
        held = await run.leftovers()
        print(f"{report(run, await run.counted(), held)}\n\n{machine()}")
    finally:
        await run.close()
    tally = run.traffic.tally
    for line in (*tally.mismatches, *tally.failed[:20]):
        print(line, file=sys.stderr)
    return int(bool(tally.mismatch or tally.failed or any(held.values())))


def main(given: list[str] | None = None) -> int:
    """Serve, soak, report; 1 if anything was wrong.

    Chunks are shorter than prompts and the cache is for a few requests, so that the first are cut
    and the others preempted; the bank is for a part of the versions.
    """
    options = arguments(given)
    torch.set_num_threads(1)  # more would wait for work where the server needs the core
    flags = [
        *("--max-model-len", "1024", "--max-num-seqs", "16", "--max-num-batched-tokens", "256"),
        *("--enforce-eager", "--disable-uvicorn-access-log"),
        *("--kv-cache-memory-bytes", str(options.cache_bytes)),
    ]
    with tempfile.TemporaryDirectory() as scratch:
        folder: Path = options.model or tiny.make(
            Path(scratch) / "tiny", options.demo, vocab_size=VOCABULARY
        )
        with serving(
            folder,
            *flags,
            program=(dozing.__file__, "serve"),
            log=options.log,
            allow_raw_prompt_embeds=True,
            bank_rows=options.bank_rows,
            metric_arms=options.metric_arms,
            drain_seconds=5,
        ) as served:
            return asyncio.run(soak(options, served, folder))


if __name__ == "__main__":
    sys.exit(main())
