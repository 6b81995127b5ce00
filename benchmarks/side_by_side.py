"""What benchmarks share: figures of variants that take turns in one run, and where they ran."""

from __future__ import annotations

import asyncio
import math
import os
import platform
import socket
import statistics
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import httpx

from softprompt_serve.vllm_plugin.seams import installed_vllm

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from softprompt_serve.demo.child import Server

START_SECONDS = 600

Case = TypeVar("Case")


@dataclass
class Figures:
    """One figure per round and variant."""

    rounds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, variant: str, value: float) -> None:
        self.rounds.setdefault(variant, []).append(value)

    def median(self, variant: str) -> float:
        return statistics.median(self.rounds[variant])

    def ratios(self, variant: str, to: str) -> list[float]:
        return [a / b for a, b in zip(self.rounds[variant], self.rounds[to], strict=True)]


def rounds(count: int, said: str = "") -> Iterator[int]:
    """Numbers of rounds: 0, which warms up, then 1 to ``count``; tells when each has ended."""
    for number in range(count + 1):
        yield number
        print(f"  {said}round {number} of {count}", file=sys.stderr, flush=True)


def rotated(cases: Sequence[Case], number: int) -> list[Case]:
    """All cases in the order of a round: in the next one another begins."""
    first = number % len(cases)
    return [*cases[first:], *cases[:first]]


async def first_token(
    client: httpx.AsyncClient, body: bytes, path: str = "/v1/completions"
) -> float:
    """Seconds to the first token of a streamed answer, which is read to its end.

    Raises:
        RuntimeError: it was refused; with what the server said.
    """
    begun, first = time.perf_counter(), 0.0
    headers = {"content-type": "application/json"}
    async with client.stream("POST", path, content=body, headers=headers) as answer:
        if answer.status_code != httpx.codes.OK:
            raise RuntimeError((await answer.aread()).decode())
        async for _ in answer.aiter_lines():
            first = first or time.perf_counter() - begun
    return first


async def first_tokens(
    client: httpx.AsyncClient, bodies: Iterable[bytes], at_once: int
) -> tuple[list[float], float]:
    """Seconds to each one's first token, of so many at once, and until all are answered."""
    free = asyncio.Semaphore(at_once)

    async def ask(body: bytes) -> float:
        async with free:
            return await first_token(client, body)

    begun = time.perf_counter()
    firsts = await asyncio.gather(*map(ask, bodies))
    return firsts, time.perf_counter() - begun


def wait_ready(server: Server, url: str) -> None:
    """Poll until the server answers.

    Raises:
        RuntimeError: it ended, or took too long; with its last words.
    """
    deadline = time.monotonic() + START_SECONDS
    while server.running and time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/v1/models", trust_env=False).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    raise RuntimeError("\n".join(server.tail()))


def spread(values: list[float]) -> str:
    """Median, and the least and the most of all rounds."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def interval(ratios: list[float]) -> str:
    """Geometric mean of two rounds or more, with its 95 % interval (Student's t, of the logarithms)."""
    logs = [math.log(ratio) for ratio in ratios]
    mean, error = statistics.mean(logs), statistics.stdev(logs) / math.sqrt(len(logs))
    room = student(len(logs) - 1) * error
    low, middle, high = (math.exp(mean + k * room) for k in (-1, 0, 1))
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, to 1 % from 4 degrees of freedom on.

    Abramowitz and Stegun, 26.7.5, four terms.
    """
    z = statistics.NormalDist().inv_cdf(0.975)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))


def machine() -> str:
    """What this ran on, and when."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return (
        f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores; "
        f"Python {platform.python_version()}; torch {version('torch')}; "
        f"{' '.join(installed_vllm() or ('no vLLM',))}; {datetime.now(UTC):%Y-%m-%d}."
    )


def free_port() -> int:
    """A port of the loopback interface that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
