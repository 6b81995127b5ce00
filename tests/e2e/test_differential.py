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
CALLERS = 8
SEED = 20_261
SECONDS = 300
"""When it ends although something is still to come."""


def test_every_answer_is_that_of_the_version_which_its_headers_name(
    server: Server, model: Path
) -> None:
    tally, changes = asyncio.run(under_fire(server, model))
    assert tally.mismatches == []
    assert tally.failed == []
    assert still_to_come(tally, changes) == {}
    # Had it been another version's answer, the comparison would have said so.
    assert tally.noticed >= 0.9 * tally.controls


def still_to_come(tally: Tally, changes: dict[str, int]) -> dict[str, int]:
    """What must have happened for the answers to prove anything, and how often it has yet to."""
    least = {
        "answers": (tally.answers, ANSWERS),
        "versions that answered": (len(tally.digests), 8),
        "swaps": (changes.get("alias", 0), 3),
        "uploads of a prefix": (changes.get("upload of a prefix", 0), 1),
        "controls": (tally.controls, 1),
    }
    return {what: wanted - count for what, (count, wanted) in least.items() if count < wanted}


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
            missing = still_to_come(traffic.tally, world.changes)
            return bool(missing) and time.monotonic() < deadline

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
