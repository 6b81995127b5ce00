"""Over HTTP: what happens to a server whose PostgreSQL or S3 is lost, and when it is back."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
from s3 import S3, in_environment
from server.answers import V1, code_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from postgres import Postgres

    Serve = Callable[..., AbstractAsyncContextManager[Any]]

pytestmark = pytest.mark.anyio

SECONDS = 10


@pytest.fixture
def s3() -> Iterator[S3]:
    server = S3()
    server.create("bucket")
    with in_environment(server):
        yield server
    server.stop()


async def healthy(api: Any) -> None:
    deadline = time.monotonic() + SECONDS
    while not api.service.feed.healthy:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_without_its_database_a_server_refuses_changes_and_goes_on_serving(
    serve: Serve, postgres: Postgres, postgres_url: str
) -> None:
    async with serve(database_url=postgres_url) as api:
        await api.import_soft()
        await api.alias("v1")
        await asyncio.to_thread(postgres.kill)
        try:
            started = time.monotonic()
            for answer in (await api.alias("v1", "candidate"), await api.import_text()):
                assert (answer.status_code, code_of(answer)) == (503, "catalogue_unavailable")
                assert int(answer.headers["retry-after"]) > 0
            assert time.monotonic() - started < SECONDS
            assert api.service.find_version("support", "production").version == "v1"
            ready = await api.client.get(f"{V1}/readyz")
            assert ready.status_code == 200
        finally:
            await asyncio.to_thread(postgres.start)
        await healthy(api)
        assert (await api.alias("v1", "candidate")).status_code == 200
        listed = (await api.client.get(f"{V1}/prompts/support")).json()
        assert listed["aliases"] == {"candidate": "v1", "production": "v1"}


async def test_another_server_on_the_same_database_and_bucket_follows(
    serve: Serve, postgres_url: str, s3: S3
) -> None:
    storage = {"database_url": postgres_url, "blob_url": "s3://bucket/prompts"}
    async with serve(**storage) as one, serve(**storage, poll_seconds=30) as other:
        await one.import_soft()
        await one.alias("v1")
        deadline = time.monotonic() + SECONDS
        while other.service.snapshot.revision < 2:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        version = other.service.find_version("support", "production")
        assert other.service.residency.is_resident(version)


async def test_without_its_bucket_a_server_refuses_uploads_and_keeps_what_is_resident(
    serve: Serve, s3: S3
) -> None:
    async with serve(blob_url="s3://bucket/prompts") as api:
        await api.import_soft()
        await api.alias("v1")
        with s3.lost():
            answer = await api.import_soft(2, 1)
            assert (answer.status_code, code_of(answer)) == (503, "blob_store_unavailable")
            assert api.service.residency.is_resident(api.service.find_version("support", "v1"))
        assert (await api.import_soft(2, 1)).json()["version"] == "v2"


async def test_a_server_that_starts_without_its_bucket_loads_when_it_is_back(
    serve: Serve, s3: S3
) -> None:
    async with serve(blob_url="s3://bucket/prompts") as api:
        await api.import_soft()
        await api.alias("v1")
    async with AsyncExitStack() as stack:
        with s3.lost():
            api = await stack.enter_async_context(serve(blob_url="s3://bucket/prompts"))
            version = api.service.find_version("support", "v1")
            assert not api.service.residency.is_resident(version)
        await api.service.restore_production()
        assert api.service.residency.is_resident(version)
