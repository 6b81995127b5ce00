"""Servers of the admin API in processes of their own, that can be killed.

One process has everything imported and forks for each start, so that a restart costs what a server
does, and not what torch's import does. Workers are fakes; catalogue, blobs and HTTP are real.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import requests

from softprompt_serve.testing import ADMIN_TOKEN

V1 = "/softprompts/v1"
START_SECONDS = 120.0

NURSERY = """
import json, os, resource, signal, sys
from pathlib import Path
import torch, uvicorn, obstore, psycopg, safetensors.torch
from softprompt_serve.testing import app_for_tests, service_for_tests, settings_for_tests

torch.set_num_threads(1)

def serve(port, home, file_bytes, log, **settings):
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    os.dup2(2, 1)
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    service = service_for_tests(Path(home), settings=settings_for_tests(Path(home), **settings))
    uvicorn.run(app_for_tests(service), host="127.0.0.1", port=port, log_level="warning", ws="none")

signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that were killed
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            serve(**json.loads(line))
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(code)
    print(child, flush=True)
"""


class Server:
    """One process that serves; ``started_seconds`` is from its fork until it was ready."""

    def __init__(self, nursery: Nursery, given: dict[str, Any]) -> None:
        self._nursery = nursery
        self._given = given
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}{V1}"
        self.log = Path(given["log"])
        self.pid = 0
        self.started_seconds = 0.0
        self.fail = self.kill
        self.session = requests.Session()
        self.session.headers["authorization"] = f"Bearer {ADMIN_TOKEN}"

    def start(self, *, ready: bool = True) -> None:
        """Start it, anew after a kill, and wait until it answers that it is ready (or not)."""
        began = time.monotonic()
        self.pid = self._nursery.fork({**self._given, "port": self.port})
        while time.monotonic() - began < START_SECONDS:
            with suppress(requests.ConnectionError):
                if self.session.get(f"{self.url}/readyz").status_code == 200 or not ready:
                    self.started_seconds = time.monotonic() - began
                    return
            assert self.alive(), self.log.read_text()[-3000:]
            time.sleep(0.01)
        raise TimeoutError(self.log.read_text()[-3000:])

    def alive(self) -> bool:
        return Path(f"/proc/{self.pid}").exists()

    def kill(self) -> None:
        """As a crash does: SIGKILL, and it is gone when this returns."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if not self.pid:
            return
        with suppress(ProcessLookupError):
            os.kill(self.pid, how)
        while self.alive():
            time.sleep(0.005)
        self.pid = 0

    def call(self, method: str, path: str, **request: Any) -> requests.Response:
        return self.session.request(method, f"{self.url}{path}", timeout=60, **request)


class Nursery:
    """The process that forks servers."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", NURSERY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout.readline() == "ready\n"
        self._servers: list[Server] = []

    def fork(self, given: dict[str, Any]) -> int:
        self._process.stdin.write(json.dumps(given) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def server(self, home: Path, *, file_bytes: int | None = None, **settings: Any) -> Server:
        """A server on ``home``, not started yet; no file of its grows over ``file_bytes``."""
        given = {"home": str(home), "file_bytes": file_bytes, "log": str(home) + ".log"}
        home.mkdir(parents=True, exist_ok=True)
        server = Server(self, {**given, **settings})
        self._servers.append(server)
        return server

    def end(self) -> None:
        """Nobody is left behind."""
        for server in self._servers:
            server.kill()
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(10)


@contextmanager
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    try:
        yield made
    finally:
        made.end()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
