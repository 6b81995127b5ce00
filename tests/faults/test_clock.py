"""A machine whose clock jumps while a rollout goes its steps: the database's clock counts."""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from rollout.events import event

from softprompt_serve.artifact import Content
from softprompt_serve.rollout.spec import RolloutSpec
from softprompt_serve.router.ask import Ask
from softprompt_serve.router.choose import choose
from softprompt_serve.testing import service_for_tests, settings_for_tests

STEP_SECONDS = 0.3
SPEC = RolloutSpec.model_validate(
    {
        "arms": [{"version": "v1", "weight": 100}, {"version": "v2", "weight": 0}],
        "steps": [{"weight": 50, "min_requests": 5, "min_duration_seconds": STEP_SECONDS}] * 2,
        "gates": [{"metric": "error_rate", "max_increase": 0.01}],
    }
)


@pytest.mark.parametrize("hours", [-1, 1, -24])
def test_a_replica_whose_clock_jumps_goes_its_steps_in_the_databases_time(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    real, ahead = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + ahead[0])
    settings = settings_for_tests(tmp_path, database_url=postgres_url, controller_seconds=0.02)
    service = service_for_tests(tmp_path, settings=settings)

    async def walk() -> float:
        for text in ("one", "two"):
            service.catalogue.add_version("support", None, Content("hard", text=text), {})
        service.catalogue.set_alias("support", "production", "v1")
        service.rollouts.put("support", SPEC, if_match=None, actor="ada")
        await service.start()
        began = time.monotonic()
        try:
            async with asyncio.timeout(60):
                while service.snapshot.prompts["support"].aliases["production"] != "v2":
                    rollout = service.snapshot.prompts["support"].rollout
                    assert rollout is not None
                    if rollout.step == 0:
                        ahead[0] = 3600.0 * hours
                    decision = choose(service.snapshot, "support", Ask(key=uuid.uuid4().hex))
                    service.events.emit(replace(event(), decision=decision))
                    await asyncio.sleep(0.001)
        finally:
            await service.close()
        return time.monotonic() - began

    # Neither stuck for an hour nor over before each step had its time.
    assert asyncio.run(walk()) >= 2 * STEP_SECONDS
    rollout = service.snapshot.prompts["support"].rollout
    assert rollout is not None
    assert rollout.state == "promoted"
