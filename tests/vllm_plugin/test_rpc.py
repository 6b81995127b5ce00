"""Calls to the engine's workers: what they answer, and that nobody waits for the dead."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from softprompt_serve.errors import Conflict, Unavailable
from softprompt_serve.vllm_plugin.rpc import EngineWorkers

pytestmark = pytest.mark.anyio


class Engine:
    """An engine client whose call to workers ends as told, or never."""

    def __init__(self, *answers: dict[str, Any], error: Exception | None = None) -> None:
        self.errored = False
        self.called = asyncio.Event()
        self.cancelled = False
        self._answers = list(answers)
        self._error = error

    async def collective_rpc(self, *_args: Any, **_kwargs: Any) -> list[dict[str, Any]]:
        self.called.set()
        if self._error is not None:
            raise self._error
        if not self._answers:
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled = True
        return self._answers


async def test_what_workers_answer_is_handed_on() -> None:
    assert await EngineWorkers(Engine({"resident": []})).status() == [{"resident": []}]


async def test_a_call_that_fails_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="broken") as caught:
        await EngineWorkers(Engine(error=RuntimeError("broken"))).status()
    assert caught.value.code == "workers_failed"


async def test_a_workers_own_error_keeps_its_class_and_code() -> None:
    told = {"class": "Conflict", "message": "In use.", "code": "version_in_use", "retry_after": 1}
    with pytest.raises(Conflict) as caught:
        await EngineWorkers(Engine({"error": told})).unload("d", forget=False)
    assert caught.value.code == "version_in_use"


async def test_a_call_in_which_the_engine_dies_ends_though_vllms_own_never_does() -> None:
    engine = Engine()
    waiting = asyncio.create_task(EngineWorkers(engine).status())
    await engine.called.wait()
    engine.errored = True
    with pytest.raises(Unavailable, match="engine is dead") as caught:
        await waiting
    assert caught.value.code == "workers_failed"
    assert engine.cancelled


async def test_a_caller_that_goes_away_takes_its_call_along() -> None:
    engine = Engine()
    waiting = asyncio.create_task(EngineWorkers(engine).status())
    await engine.called.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.sleep(0)
    assert engine.cancelled
