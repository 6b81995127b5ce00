"""Versions that come into production are sent through the engine once, before users come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from server.conftest import tensor

from softprompt_serve.artifact import learned_from_bytes
from softprompt_serve.artifact.content import keys_of
from softprompt_serve.registry.snapshot import Version
from softprompt_serve.release.records import parse_record
from softprompt_serve.server.service import Service
from softprompt_serve.testing import FakeWorkers, service_for_tests
from softprompt_serve.vllm_plugin import warming as module
from softprompt_serve.vllm_plugin.reference import KEY, Reference, salt_for
from softprompt_serve.vllm_plugin.warming import Warming

pytestmark = pytest.mark.anyio

PLACEHOLDER, BLOCK = 7, 4


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Engine:
    """Takes what is sent, and may be slow or broken."""

    def __init__(self) -> None:
        self.sent: list[tuple[dict[str, Any], Any, dict[str, Any]]] = []
        self.leased: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.service: Service | None = None
        self.room = True

    async def generate(
        self, prompt: Any, params: Any, request_id: str, **more: Any
    ) -> AsyncGenerator[Any, None]:
        assert request_id.startswith("softprompt-warming-")
        self.sent.append((dict(prompt), params, more))
        assert self.service is not None
        digest = params.extra_args[KEY]["digest"]
        self.leased.append(self.service.residency.leases(digest))
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        if params.extra_args[KEY]["way"] == "caught" and self.room:
            workers_of(self.service).slots.place(keys_of(digest), 1)
        yield "an output"


def workers_of(service: Service) -> FakeWorkers:
    workers = service.residency.workers
    assert isinstance(workers, FakeWorkers)
    return workers


@asynccontextmanager
async def started(tmp_path: Path, *, keep: bool = False, cached: bool = True) -> Any:
    service, engine = service_for_tests(tmp_path), Engine()
    engine.service = service
    await service.start()
    warming = Warming(
        engine.generate,
        service.residency,
        placeholder=PLACEHOLDER,
        block=BLOCK,
        keep=keep,
        cached=cached,
        more={"priority": 9},
    )
    service.keeping.warm = warming
    try:
        yield service, engine, warming
    finally:
        await warming.stop()
        await service.close()


async def imported(service: Service, rows: int, seed: int = 0) -> Version:
    artifact = learned_from_bytes(tensor(rows, seed), filename=None, limits=service.served.limits)
    version, _ = await service.import_version("p", None, artifact, parse_record(None), None)
    return version


async def test_a_version_is_warm_before_the_swap_is_acknowledged(tmp_path: Path) -> None:
    async with started(tmp_path) as (service, engine, _):
        version = await imported(service, 5)
        assert engine.sent == []
        await service.set_alias("p", "production", "v1", None)
        ((prompt, params, more),) = engine.sent
        assert prompt["prompt_token_ids"] == [PLACEHOLDER] * 6
        assert prompt["cache_salt"] == salt_for(version.digest, None)
        assert params.extra_args == {KEY: Reference.to(version).to_extra_args()}
        assert (params.max_tokens, more) == (1, {"priority": 9})


async def test_its_rows_are_held_meanwhile_and_let_go(tmp_path: Path) -> None:
    async with started(tmp_path) as (service, engine, _):
        version = await imported(service, 5)
        await service.set_alias("p", "production", "v1", None)
        assert engine.leased[0] >= 1
        assert service.residency.leases(version.digest) == 0


async def test_each_version_is_warmed_once(tmp_path: Path) -> None:
    async with started(tmp_path) as (service, engine, _):
        for seed in (1, 2):
            await imported(service, 5, seed)
        for name in ("v1", "v2", "v1", "v2"):
            await service.set_alias("p", "production", name, None)
        assert len(engine.sent) == 2


async def test_fewer_virtual_tokens_than_a_block_are_not_worth_it(tmp_path: Path) -> None:
    async with started(tmp_path) as (service, engine, _):
        await imported(service, BLOCK - 1)
        await service.set_alias("p", "production", "v1", None)
        assert engine.sent == []


async def test_a_busy_engine_does_not_hold_up_a_swap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.01)
    async with started(tmp_path) as (service, engine, _):
        await imported(service, 5)
        engine.gate.clear()
        await service.set_alias("p", "production", "v1", None)
        assert service.traffic.prompts["p"].aliases["production"] == "v1"
        assert len(engine.sent) == 1


async def test_a_failure_is_logged_and_tried_again_at_the_next_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with started(tmp_path) as (service, engine, _):
        await imported(service, 5)
        engine.error = RuntimeError("out of order")
        await service.set_alias("p", "production", "v1", None)
        assert "could not be warmed up: out of order" in caplog.text
        assert service.traffic.prompts["p"].aliases["production"] == "v1"
        engine.error = None
        await service.set_alias("p", "candidate", "v1", None)
        assert len(engine.sent) == 2


async def test_what_is_under_way_ends_with_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.01)
    async with started(tmp_path) as (service, engine, warming):
        version = await imported(service, 5)
        engine.gate.clear()
        await service.set_alias("p", "production", "v1", None)
        await warming.stop()
        assert service.residency.leases(version.digest) == 0


async def test_where_keys_and_values_are_kept_any_number_of_tokens_is_worth_it(
    tmp_path: Path,
) -> None:
    async with started(tmp_path, keep=True, cached=False) as (service, engine, _):
        version = await imported(service, 1)
        await service.set_alias("p", "production", "v1", None)
        ((prompt, params, _),) = engine.sent
        assert params.extra_args[KEY]["way"] == "caught"
        # Found in the prefix cache they would not be computed, and so not caught.
        assert prompt["cache_salt"].startswith(salt_for(version.digest, None) + ":")
        assert service.residency.has_keys(version)


async def test_a_bank_without_room_leaves_the_prefix_cache(tmp_path: Path) -> None:
    async with started(tmp_path, keep=True) as (service, engine, _):
        version = await imported(service, BLOCK)
        slots = workers_of(service).slots
        slots.place("another's", slots.spare_room - 1)
        await service.set_alias("p", "production", "v1", None)
        assert [params.extra_args[KEY]["way"] for _, params, _ in engine.sent] == ["rows"]
        assert not service.residency.has_keys(version)


async def test_room_that_went_meanwhile_leaves_the_prefix_cache(tmp_path: Path) -> None:
    async with started(tmp_path, keep=True) as (service, engine, _):
        engine.room = False
        version = await imported(service, BLOCK)
        await service.set_alias("p", "production", "v1", None)
        assert [params.extra_args[KEY]["way"] for _, params, _ in engine.sent] == ["caught", "rows"]
        assert not service.residency.has_keys(version)


async def test_keys_and_values_that_were_evicted_are_made_again_at_the_next_change(
    tmp_path: Path,
) -> None:
    async with started(tmp_path, keep=True) as (service, engine, _):
        version = await imported(service, 2)
        await service.set_alias("p", "production", "v1", None)
        await service.set_alias("p", "candidate", "v1", None)
        assert len(engine.sent) == 1
        workers_of(service).lose(keys_of(version.digest))
        await service.residency.refresh()
        await service.set_alias("p", "baseline", "v1", None)
        assert len(engine.sent) == 2
        assert service.residency.has_keys(version)


async def test_an_unloaded_versions_keys_and_values_go_with_it(tmp_path: Path) -> None:
    async with started(tmp_path, keep=True) as (service, _, _):
        version = await imported(service, 2)
        await service.set_alias("p", "production", "v1", None)
        await service.residency.unload(version.digest, forget=True, within=1)
        assert workers_of(service).slots.resident() == ()
        assert not service.residency.has_keys(version)
