"""What benchmarks share that ask one server of ours: starting it, and its versions."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import tempfile
from argparse import ArgumentParser
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import httpx
import safetensors.torch
import torch
from side_by_side import free_port, wait_ready

from softprompt_serve.demo.child import Server

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

BASE: Final = "base"
TOKEN: Final = "a-token-for-benchmarks"  # noqa: S105 - of a server on the loopback interface
ADMIN: Final = "/softprompts/v1"


@dataclass(frozen=True, slots=True)
class Served:
    """A running server: where, its process id, and the model's shape."""

    url: str
    pid: int
    hidden_size: int
    vocabulary: int


@contextmanager
def serving(
    model: Path,
    *flags: str,
    program: Sequence[str] = ("-m", "softprompt_serve.cli", "serve"),
    log: Path | None = None,
    environment: Mapping[str, str] | None = None,
    **settings: Any,
) -> Iterator[Served]:
    """Serve ``model`` until the end; ``settings`` are ours, such as ``bank_rows=4096``.

    Args:
        model: its folder.
        flags: of ``vllm serve``.
        program: what Python runs; it is given the model and the flags.
        log: keeps the server's log, whose end is shown if something goes wrong.
        environment: what the server's has besides.
        settings: ours, in lower case.
    """
    config = json.loads((model / "config.json").read_text())
    port = free_port()
    command = [
        *(sys.executable, *program, str(model.absolute())),
        *("--served-model-name", BASE, "--dtype", "float32", "--host", "127.0.0.1"),
        *("--port", str(port), *flags),
    ]
    with tempfile.TemporaryDirectory() as scratch:
        given = {f"SOFTPROMPT_{name.upper()}": str(value) for name, value in settings.items()}
        # The variable overrules the flag.
        sized = "--kv-cache-memory-bytes" in flags
        whole = {
            **({} if sized else {"VLLM_CPU_KVCACHE_SPACE": "2"}),
            **os.environ,
            **(environment or {}),
            "SOFTPROMPT_HOME": str(Path(scratch) / "home"),
            "SOFTPROMPT_ADMIN_TOKEN": TOKEN,
            "SOFTPROMPT_PROMOTION_GATES": "off",
            "SOFTPROMPT_CHANGES_PER_MINUTE": "none",
            **given,
        }
        with Server(command, whole, log or Path(scratch) / "server.log") as server:
            url = f"http://127.0.0.1:{port}"
            wait_ready(server, url)
            try:
                yield Served(url, server.pid, config["hidden_size"], config["vocab_size"])
            except BaseException:
                print("\n".join(server.tail()), file=sys.stderr)
                raise


class Caller:
    """Callers of a server, users and publisher in one."""

    def __init__(self, served: Served, client: httpx.AsyncClient, seed: int) -> None:
        self.served = served
        self.client = client
        self.rng = random.Random(seed)
        self._headers = {"authorization": f"Bearer {TOKEN}"}

    def ids(self, count: int) -> list[int]:
        """Random token ids."""
        return [self.rng.randrange(100, self.served.vocabulary - 100) for _ in range(count)]

    def rows(self, count: int) -> torch.Tensor:
        """Random rows ``[count, hidden_size]``."""
        return torch.randn(count, self.served.hidden_size) * 0.02

    async def upload(self, prompt: str, version: str, rows: torch.Tensor) -> None:
        """Make a version resident."""
        data = safetensors.torch.save({"prompt_embeddings": rows})
        answer = await self.client.post(
            f"{ADMIN}/prompts/{prompt}/versions",
            headers=self._headers,
            files={"tensor": ("rows.safetensors", data)},
            data={"version": version},
        )
        answer.raise_for_status()

    async def alias(self, prompt: str, version: str, name: str = "production") -> None:
        """Swap what an alias means; when this returns, new requests follow."""
        await self._put(f"{prompt}/aliases/{name}", {"version": version})

    async def rollout(self, prompt: str, document: dict[str, Any]) -> None:
        """Set how a prompt's traffic is split, and its shadow."""
        await self._put(f"{prompt}/rollout", document)

    async def _put(self, path: str, document: dict[str, Any]) -> None:
        answer = await self.client.put(
            f"{ADMIN}/prompts/{path}", headers=self._headers, json=document
        )
        answer.raise_for_status()

    async def get(self, path: str) -> Any:
        """What the admin API says of a prompt."""
        answer = await self.client.get(f"{ADMIN}/prompts/{path}", headers=self._headers)
        return answer.raise_for_status().json()

    def body(self, model: str, visible: list[int], output: int) -> bytes:
        """A streamed completion, encoded."""
        request = {
            "model": model,
            "prompt": visible,
            "max_tokens": output,
            "stream": True,
            "temperature": 0,
            "ignore_eos": True,
        }
        return json.dumps(request).encode()


class Bench(Protocol):
    """Takes a running server's time."""

    async def run(self, served: Served) -> None:
        """All of it."""


def run(bench: Bench, options: Namespace, *flags: str, **settings: Any) -> None:
    """Serve ``options.model`` for as long as ``bench`` takes."""
    with serving(options.model, "--max-model-len", "512", *flags, **settings) as served:
        asyncio.run(bench.run(served))


def parser(doc: str | None, *, rounds: int = 7) -> ArgumentParser:
    """A command line with what all of these have, described by a module's first sentence."""
    made = ArgumentParser(description=(doc or "").split("\n\n", maxsplit=1)[0])
    made.add_argument("--model", type=Path, required=True, help="folder of the demo model")
    made.add_argument("--rounds", type=int, default=rounds)
    made.add_argument("--seed", type=int, default=0)
    return made


@asynccontextmanager
async def calling(served: Served, seed: int = 0) -> AsyncIterator[Caller]:
    """Callers with a connection for each request: a server closes what idles."""
    fresh = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(
        base_url=served.url, timeout=600, trust_env=False, limits=fresh
    ) as client:
        yield Caller(served, client, seed)
