"""Rounds: every variant takes its turn, and the next round begins with another one."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Final

import httpx
import safetensors.torch
import torch
from side_by_side import rotated, rounds

from cost import processor
from cost.asking import PROMPT, ask_all
from cost.engines import TOKEN
from cost.figures import Turn
from cost.sheets import ENGINE, OVERLAY, PEFT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cost.asking import Writer
    from cost.engines import Engines
    from cost.figures import Answer
    from cost.rivals import Transformers
    from cost.sheets import Case, Sheet

    Ask = Callable[[], Awaitable[tuple[Answer, ...]]]
    Found = dict[Case, dict[str, list[Turn]]]

LEAST: Final = 4
"""Requests of a turn, where fewer callers would make it too short to be timed."""
ADMIN: Final = "/softprompts/v1"


class Bench:
    """The engines that are asked, and the clock."""

    def __init__(self, engines: Engines, writer: Writer) -> None:
        self._engines = engines
        self._writer = writer
        self._uploaded: set[int] = set()

    async def measure_all(self, sheets: dict[str, Sheet]) -> dict[str, Found]:
        """One sheet after another."""
        return {name: await self.measure(sheet) for name, sheet in sheets.items()}

    async def measure(self, sheet: Sheet) -> Found:
        """Every case of a sheet; the first round of each warms up and is forgotten."""
        found: Found = {}
        for case in sheet.cases():
            await self._upload(case.rows)
            turns = found[case] = {name: list[Turn]() for name in sheet.variants}
            said = ", ".join(filter(None, (sheet.title, sheet.label(case))))
            for number in rounds(case.rounds, f"{said}: "):
                for variant in rotated(sheet.variants, number):
                    turn = await self._turn(variant, case, sheet.output, warm=number > 0)
                    if number:
                        turns[variant].append(turn)
        return found

    async def _upload(self, rows: int) -> None:
        """Make a version of random rows resident, once."""
        if rows in self._uploaded:
            return
        data = safetensors.torch.save({"rows": torch.randn(rows, self._writer.hidden_size) * 0.02})
        async with _client(self._engines.url(OVERLAY)) as client:
            answer = await client.post(
                f"{ADMIN}/prompts/{PROMPT}/versions",
                headers={"authorization": f"Bearer {TOKEN}"},
                files={"tensor": ("rows.safetensors", data)},
                data={"version": f"n{rows}"},
            )
            answer.raise_for_status()
        self._uploaded.add(rows)

    async def _turn(self, variant: str, case: Case, output: int, *, warm: bool) -> Turn:
        """As many requests as there are callers, and some more where these are few."""
        count = max(case.concurrency, LEAST) if warm else min(case.concurrency, LEAST)
        ask = self._prepared(variant, case, output, count)
        pid = self._engines.pid(variant)
        used, begun = processor.seconds(pid), time.perf_counter()
        answers = await ask()
        spent = time.perf_counter() - begun
        return Turn(answers, spent, count * output, processor.seconds(pid) - used)

    def _prepared(self, variant: str, case: Case, output: int, count: int) -> Ask:
        """What is to be timed, with all requests written."""
        engines, writer = self._engines, self._writer
        if variant == PEFT and engines.transformers is not None:
            ids = [writer.ids(PEFT, case) for _ in range(count)]
            return partial(asyncio.to_thread, _batches, engines.transformers, case, ids, output)
        if variant == ENGINE and engines.embedded is not None:
            rows = [writer.embeddings(case) for _ in range(count)]
            return partial(engines.embedded.answers, rows, output, case.concurrency)
        bodies = [writer.body(variant, case, output) for _ in range(count)]
        return partial(_served, engines.url(variant), bodies, case.concurrency)


async def _served(url: str, bodies: list[bytes], concurrency: int) -> tuple[Answer, ...]:
    async with _client(url) as client:
        return await ask_all(client, bodies, concurrency)


def _batches(
    transformers: Transformers, case: Case, prompts: list[list[int]], output: int
) -> tuple[Answer, ...]:
    """As many callers at once as one batch."""
    answers: tuple[Answer, ...] = ()
    for start in range(0, len(prompts), case.concurrency):
        batch = prompts[start : start + case.concurrency]
        answers += transformers.answers(case.rows, batch, output)
    return answers


def _client(url: str) -> httpx.AsyncClient:
    """A connection for each request: a server closes what idles while others take their turns."""
    fresh = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.AsyncClient(base_url=url, timeout=600, trust_env=False, limits=fresh)
