"""A server whose base model can be exchanged: the real admin API, and answers by rule."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from click.testing import Result
from evaluation.fake_endpoint import Fake, question_of
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from typer.testing import CliRunner

from softprompt_serve.cli import app
from softprompt_serve.release.records import BaseModelIdentity
from softprompt_serve.server.service import Service
from softprompt_serve.testing import (
    BASE_MODEL,
    app_for_tests,
    service_for_tests,
    serving,
    settings_for_tests,
)

ITEMS = 40
RIGHT = {"v1": 14, "v2": 34}
_SECONDS = 60.0
_SOON = """
import signal
from softprompt_serve.cli import main
from softprompt_serve.evaluation import asking
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's tests ignore it
asking._backoff = lambda attempt: 0.01
main()
"""
"""The command line, but that a lost server is given up after moments and not after 15 s."""

Json = dict[str, Any]


def base(letter: str) -> BaseModelIdentity:
    """The base model whose fingerprints are of that letter."""
    return BaseModelIdentity(BASE_MODEL, "main", letter * 64, letter * 64, letter * 64)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@dataclass
class Site:
    """The server, and the command line that is pointed at it.

    Attributes:
        folder: its home, and the data sets.
        right: version → how many of the items it answers rightly, from the first one on.
        fake: gives the answers.
        port: the same after a restart.
        broken: the end of a path for which a proxy answers 503, or None.
    """

    folder: Path
    right: dict[str, int] = field(default_factory=lambda: dict(RIGHT))
    fake: Fake = field(default_factory=Fake)
    port: int = field(default_factory=free_port)
    service: Service | None = None
    broken: str | None = None

    def __post_init__(self) -> None:
        self.fake.rule = self._answer
        self.fake.digest_of = self._digest

    def _answer(self, version: str, body: Json) -> str:
        number = int(re.findall(r"\d+", question_of(body))[-1])
        return "billing" if number < self.right[version] else "shipping"

    def _digest(self, version: str) -> str:
        assert self.service is not None
        return self.service.find_version("support", version).digest

    @contextmanager
    def up(self, letter: str = "a") -> Iterator[None]:
        """Serve on that base model; what is in the catalogue stays when it ends."""
        home = self.folder / "server"
        settings = settings_for_tests(home, promotion_gates="enforce")
        self.service = service_for_tests(home, settings=settings, identity=base(letter))
        web = app_for_tests(self.service)
        web.add_route("/v1/chat/completions", self.fake.complete, methods=["POST"])
        web.add_middleware(Proxy, site=self)
        with serving(web, port=self.port):
            yield

    def call(self, *arguments: str, fails: int = 0) -> Result:
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == fails, result.output
        return result

    def json(self, *arguments: str, fails: int = 0) -> Any:
        return json.loads(self.call(*arguments, "--json", fails=fails).stdout)

    def dataset(self, name: str = "tickets", items: int = ITEMS, cohort: str = "default") -> str:
        path = self.folder / f"{name}.jsonl"
        rows = (
            {"id": f"t-{n}", "text": f"question {n}", "label": "billing", "cohort": cohort}
            for n in range(items)
        )
        path.write_text("\n".join(map(json.dumps, rows)))
        return str(path)

    def production(self) -> str:
        version: str = self.json("show", "support")["aliases"]["production"]
        return version


class Proxy:
    """Stands before a site and fails where that says so."""

    def __init__(self, app: ASGIApp, site: Site) -> None:
        self.app, self.site = app, site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        broken = self.site.broken
        if broken is not None and scope.get("path", "").endswith(broken):
            await PlainTextResponse("no upstream", 503)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


class Watching:
    """`eval watch` in a process of its own; every line that it prints is kept."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-c", _SOON, "eval", "watch", *arguments]
        self.process = subprocess.Popen(
            command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.lines: deque[str] = deque()
        self._said = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def until(self, wanted: Callable[[str], bool]) -> str:
        """Wait for a line, and forget those before it."""
        with self._said:
            while True:
                while self.lines:
                    if wanted(line := self.lines.popleft()):
                        return line
                assert not self._ended, "it ended"
                assert self._said.wait(_SECONDS), "nothing more was said"

    def found(self) -> Any:
        """The next rerun."""
        return json.loads(self.until(lambda line: line.startswith("{")))

    def end(self, signal: int) -> int:
        self.process.send_signal(signal)
        status = self.process.wait(_SECONDS)
        self._reader.join()
        return status

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._said:
                self.lines.append(line)
                self._said.notify_all()
        with self._said:
            self._ended = True
            self._said.notify_all()
