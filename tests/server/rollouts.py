"""A prompt that is about to be released, and waiting for a rollout as controllers do."""

from __future__ import annotations

import time
from typing import Any

import anyio
from server.answers import V1

ROLLOUT = f"{V1}/prompts/support/rollout"
SECONDS = 10.0


async def before_release(api: Any) -> None:
    """`support` has v2, which is production, and v4, which is new."""
    for rows, version in ((2, "v2"), (4, "v4")):
        assert (await api.import_soft(rows, version=version)).status_code == 201
    assert (await api.alias("v2")).status_code == 200


async def applied(api: Any, generation: int = 0) -> dict[str, Any]:
    """The rollout, once every live replica serves it at that generation or a later one."""
    deadline = time.monotonic() + SECONDS
    while True:
        answer = await api.client.get(ROLLOUT)
        assert answer.status_code == 200, answer.text
        state: dict[str, Any] = answer.json()
        if state["applied"] and state["generation"] >= generation:
            return state
        assert time.monotonic() < deadline, state
        await anyio.sleep(0.005)
