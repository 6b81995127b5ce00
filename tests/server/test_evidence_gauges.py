"""Runs that are stored show in metrics, whoever stored them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from measured import Measured
from runs import AT, run_id, scored
from server.answers import V1, VERSIONS
from server.conftest import Api

from softprompt_serve.registry.evidence import Evidence
from softprompt_serve.release.evidence_shapes import to_document
from softprompt_serve.server.evidence_gauges import EvidenceGauges

Serve = Callable[..., AbstractAsyncContextManager[Api]]

pytestmark = pytest.mark.anyio


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


@asynccontextmanager
async def looking(api: Api) -> AsyncIterator[Measured]:
    found = Measured()
    gauges = EvidenceGauges(api.service, found.metrics, settle=0.01, retry=0.01)
    await gauges.start()
    try:
        yield found
    finally:
        await gauges.stop()


def rates(found: Measured) -> dict[tuple[str, ...], float]:
    return found.shown("eval_fail_ratio", "version", "cohort")


async def test_a_run_that_was_there_at_the_start_is_shown(serve: Serve) -> None:
    async with serve() as api:
        digest = (await api.import_text()).json()["digest"]
        run = scored({"v1": digest}, {"v1": [True, False, False, False]})
        Evidence(api.service.catalogue.database).add(run)
        async with looking(api) as found:
            await until(lambda: bool(rates(found)))
            assert rates(found) == {("v1", "default"): 0.5, ("v1", "regulated"): 1.0}


async def test_a_run_that_is_added_is_shown_at_once(serve: Serve) -> None:
    async with serve() as api:
        digest = (await api.import_text()).json()["digest"]

        async def add(number: int, *passed: bool) -> None:
            run = scored({"v1": digest}, {"v1": passed}, id=run_id(number), at=AT + number)
            await api.client.post(f"{V1}/prompts/support/runs", content=to_document(run))

        async with looking(api) as found:
            await add(1, False, False)
            await until(lambda: rates(found) == {("v1", "default"): 1, ("v1", "regulated"): 1})
            await add(2, True, False)
            await until(lambda: rates(found) == {("v1", "regulated"): 1})


async def test_a_version_that_was_removed_is_zero(serve: Serve) -> None:
    async with serve() as api:
        digest = (await api.import_text()).json()["digest"]
        await api.import_text("Be kind.")
        Evidence(api.service.catalogue.database).add(scored({"v1": digest}))
        async with looking(api) as found:
            await until(lambda: bool(found.shown("eval_items", "version")))
            await api.client.delete(f"{VERSIONS}/v1")
            await until(lambda: not found.shown("eval_items", "version"))


async def test_a_catalogue_that_is_gone_is_logged_once_and_nothing_ends(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve() as api:
        (api.service.settings.home_dir / "catalogue.db").unlink()
        async with looking(api):
            await until(lambda: "can't be shown" in caplog.text)
            await asyncio.sleep(0.1)
        assert caplog.text.count("can't be shown in metrics now") == 1
