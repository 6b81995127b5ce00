"""The workers are asked what they hold, and metrics show it."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from measured import Measured

from softprompt_serve.errors import Unavailable
from softprompt_serve.server.gauges import Gauges
from softprompt_serve.telemetry.events import Applied, Loaded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    Serve = Callable[..., AbstractAsyncContextManager[Any]]

pytestmark = pytest.mark.anyio


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def looks(api: Any) -> int:
    return len([method for method, _ in api.workers.calls if method == "status"])


@asynccontextmanager
async def looking(api: Any, **times: float) -> AsyncIterator[tuple[Gauges, Measured]]:
    """Gauges of a running server, which have looked once."""
    found = Measured()
    gauges = Gauges(api.service, found.metrics, **({"every": 60.0, "settle": 0.01} | times))
    before = looks(api)
    await gauges.start()
    try:
        await until(lambda: looks(api) > before and found.value("bank_capacity_rows") != 0)
        yield gauges, found
    finally:
        await gauges.stop()


async def test_what_the_workers_hold_is_shown_at_the_start(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft(rows=3)
        await api.alias("v1")
        async with looking(api) as (_, found):
            assert found.value("bank_capacity_rows") == 1024
            assert found.value("bank_used_rows") == 3
            assert found.value("bank_bytes") == 3 * 8 * 4
            assert found.value("bank_resident_versions") == 1
            assert found.value("version_resident", prompt="support", version="v1") == 1


async def test_a_change_is_shown_soon(serve: Serve) -> None:
    async with serve() as api, looking(api) as (_, found):
        await api.import_soft(rows=5)
        await until(lambda: found.value("bank_used_rows") == 5)
        await api.alias("v1")
        await until(lambda: found.value("version_resident", prompt="support", version="v1") == 1)


async def test_what_nobody_told_is_shown_after_a_while(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft(rows=4)
        await api.alias("v1")
        async with looking(api, every=0.02) as (_, found):
            api.workers.lose(api.service.find_version("support", "v1").digest)
            await until(
                lambda: found.value("version_resident", prompt="support", version="v1") == 0
            )
            assert found.value("bank_used_rows") == 0


async def test_changes_that_come_together_are_one_look(serve: Serve) -> None:
    async with serve(poll_seconds=60.0) as api, looking(api, settle=0.1) as (_, _found):
        before = looks(api)
        for _ in range(10):
            api.service.events.emit(Loaded("a", "blob", 0.1))
            api.service.events.emit(Applied(api.service.snapshot))
            await asyncio.sleep(0)
        await asyncio.sleep(0.3)
        assert looks(api) == before + 1


async def test_looks_never_overlap(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve(poll_seconds=60.0) as api:
        running, most, ended = 0, 0, 0
        real = api.workers.status

        async def slow() -> Any:
            nonlocal running, most, ended
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.02)
            running -= 1
            ended += 1
            return await real()

        monkeypatch.setattr(api.workers, "status", slow)
        async with looking(api, every=0.001, settle=0.001):
            while ended < 5:
                api.service.events.emit(Applied(api.service.snapshot))
                await asyncio.sleep(0.001)
        assert most == 1


async def test_workers_that_do_not_answer_are_logged_once_and_so_is_their_return(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="softprompt_serve.server.gauges")
    async with serve(poll_seconds=60.0) as api, looking(api, every=0.005) as (gauges, _):
        api.workers.failure = Unavailable("The engine is down.", code="workers_failed")
        before = looks(api)
        await until(lambda: looks(api) > before + 4)
        assert gauges.error is not None
        assert "The engine is down." in gauges.error
        api.workers.failure = None
        await until(lambda: gauges.error is None)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_it_ends_also_if_it_never_began(serve: Serve) -> None:
    async with serve() as api:
        gauges = Gauges(api.service, Measured().metrics)
        await gauges.stop()
