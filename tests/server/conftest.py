"""A real server of the admin API on a temporary home, with fake workers."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import torch
from safetensors.torch import save

from softprompt_serve.testing import (
    ADMIN_TOKEN,
    HIDDEN_SIZE,
    FakeWorkers,
    app_for_tests,
    service_for_tests,
    settings_for_tests,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from softprompt_serve.release.records import BaseModelIdentity
    from softprompt_serve.server.service import Service

V1 = "/softprompts/v1"


class Api:
    """One running server: the client that talks to it, and what stands behind it."""

    def __init__(self, service: Service, client: httpx.AsyncClient) -> None:
        self.service = service
        self.client = client

    @property
    def workers(self) -> FakeWorkers:
        workers = self.service.residency.workers
        assert isinstance(workers, FakeWorkers)
        return workers

    async def import_soft(
        self, rows: int = 2, seed: int = 0, *, prompt: str = "support", **parts: Any
    ) -> httpx.Response:
        return await self.client.post(
            f"{V1}/prompts/{prompt}/versions",
            files={"tensor": ("t.safetensors", tensor(rows, seed))},
            data=parts,
        )

    async def import_text(
        self, text: str = "Be brief.", *, prompt: str = "support", **parts: Any
    ) -> httpx.Response:
        return await self.client.post(
            f"{V1}/prompts/{prompt}/versions", data={"text": text, **parts}
        )

    async def alias(
        self, version: str, alias: str = "production", *, prompt: str = "support"
    ) -> httpx.Response:
        return await self.client.put(
            f"{V1}/prompts/{prompt}/aliases/{alias}", json={"version": version}
        )


def tensor(rows: int, seed: int = 0, *, hidden: int = HIDDEN_SIZE) -> bytes:
    """A safetensors file of ``[rows, hidden]``."""
    values = torch.randn(rows, hidden, generator=torch.Generator().manual_seed(seed))
    return save({"prompt": values})


@pytest.fixture
def make_tensor() -> Callable[..., bytes]:
    return tensor


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., AbstractAsyncContextManager[Api]]:
    """Start a server on this test's home; again after it closed is a restart."""

    @asynccontextmanager
    async def start(
        *,
        token: str | None = ADMIN_TOKEN,
        workers: FakeWorkers | None = None,
        root_path: str = "",
        identity: BaseModelIdentity | None = None,
        **settings: Any,
    ) -> AsyncIterator[Api]:
        service = service_for_tests(
            tmp_path,
            workers=workers,
            settings=settings_for_tests(tmp_path, **settings),
            identity=identity,
        )
        app = app_for_tests(service)
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        transport = httpx.ASGITransport(app, root_path=root_path, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(
                transport=transport, base_url="http://server", headers=headers
            ) as client,
        ):
            yield Api(service, client)

    return start


@pytest.fixture
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio, as the server does."""
    return "asyncio"
