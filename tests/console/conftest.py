"""A server with the console on a temporary home, with fake workers, and a visitor to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from console.visitors import ORIGIN, Visitor
from starlette.types import ASGIApp, Receive, Scope, Send

from softprompt_serve.testing import app_for_tests, service_for_tests, settings_for_tests

Serve = Callable[..., AbstractAsyncContextManager[Visitor]]


def behind(app: ASGIApp, prefix: str) -> ASGIApp:
    """A proxy that takes a prefix off the path, as `--root-path` is told."""

    async def proxied(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "path": scope["path"].removeprefix(prefix)}, receive, send)

    return proxied


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    @asynccontextmanager
    async def start(
        *, origin: str = ORIGIN, root_path: str = "", stripped: bool = False, **settings: Any
    ) -> AsyncIterator[Visitor]:
        given = {"controller_seconds": 60.0, "controller_lease_seconds": 120.0, **settings}
        service = service_for_tests(tmp_path, settings=settings_for_tests(tmp_path, **given))
        app = app_for_tests(service)
        if console := getattr(app.state, "softprompt_console", None):
            console.throttle._seconds = 0.01
        served = behind(app, root_path) if stripped else app
        transport = httpx.ASGITransport(served, root_path=root_path, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url=origin) as client,
        ):
            yield Visitor(service, client, root_path)

    return start


@pytest.fixture
async def stranger(serve: Serve) -> AsyncIterator[Visitor]:
    """Who has not logged in."""
    async with serve() as visitor:
        yield visitor


@pytest.fixture
async def ada(stranger: Visitor) -> Visitor:
    """Who has."""
    assert (await stranger.log_in("ada")).status_code == 303
    return stranger


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
