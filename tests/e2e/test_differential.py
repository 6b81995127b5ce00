"""Random traffic while versions come, change places and go: each answer is its own version's."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import httpx
from e2e.harness import BASE, Server
from fire.oracle import Oracle, Tokens
from fire.traffic import Tally, Traffic, together
from fire.world import PROMPT, World

ANSWERS = 80
VERSIONS = 8
SWAPS = 3
PREFIXES = 1
CALLERS = 8
SEED = 20_261
SECONDS = 300
"""When it ends without so many; a quick machine has its answers before its changes, or not."""


def test_every_answer_is_that_of_the_version_which_its_headers_name(
    server: Server, model: Path
) -> None:
    tally, changes = asyncio.run(under_fire(server, model))
    assert tally.mismatches == []
    assert tally.failed == []
    assert tally.answers >= ANSWERS
    assert len(tally.digests) >= VERSIONS
    assert changes["alias"] >= SWAPS
    assert changes["upload of a prefix"] >= PREFIXES
    # Had it been another version's answer, the comparison would have said so.
    assert tally.controls
    assert tally.noticed >= 0.9 * tally.controls


async def under_fire(server: Server, model: Path) -> tuple[Tally, dict[str, int]]:
    tokens, rng = Tokens(model), random.Random(SEED)
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=300, trust_env=False) as client,
        httpx.AsyncClient(
            base_url=f"{server.url}/softprompts/v1",
            headers={"authorization": f"Bearer {server.token()}"},
            timeout=300,
            trust_env=False,
        ) as admin,
    ):
        world = World(admin, tokens, rng, prefixes=(1, 2, 7))
        oracle = Oracle(client, BASE, tokens)
        traffic = Traffic(
            client=client,
            world=world,
            oracle=oracle,
            tokens=tokens,
            rng=rng,
            base=BASE,
            control=0.1,
            long=0.0,
        )

        deadline = time.monotonic() + SECONDS

        def goes_on() -> bool:
            return time.monotonic() < deadline and (
                traffic.tally.answers < ANSWERS
                or len(traffic.tally.digests) < VERSIONS
                or not traffic.tally.controls
                or world.changes.get("alias", 0) < SWAPS
                or world.changes.get("upload of a prefix", 0) < PREFIXES
            )

        async def change() -> None:
            while goes_on():
                await world.change()
                await asyncio.sleep(0.5)

        try:
            await world.populate(6)
            await together([*(traffic.run(goes_on) for _ in range(CALLERS)), change()])
        finally:
            await leave(admin, world)
    return traffic.tally, world.changes


async def leave(admin: httpx.AsyncClient, world: World) -> None:
    """Take everything away again; what follows has the bank to itself."""
    await admin.delete(f"/prompts/{PROMPT}/rollout")
    await admin.delete(f"/prompts/{PROMPT}/aliases/production")
    for name in world.live:
        await admin.delete(f"/prompts/{PROMPT}/versions/{name}")
