"""A real Prometheus as a child process, and what it answers."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import yaml
from debian import tool
from e2e.harness import free_port

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus"
START_SECONDS = 60.0


@functools.cache
def binary(name: str) -> Path:
    """`prometheus` or `promtool`; fails, naming Debian's package, where it can't be had."""
    return tool(name, "prometheus")


class Prometheus:
    """One server on loopback with exemplars, that scrapes a target every so often.

    The scrape job and the rules are those of `deploy/prometheus`; the address and the times are not.
    """

    def __init__(self, folder: Path, target: str, *, every: str = "1s") -> None:
        self.folder = folder
        self.port = free_port()
        self.target = target
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}/api/v1", timeout=60)
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "prometheus.log"
        self._write(every)

    def _write(self, every: str) -> None:
        config = yaml.safe_load((RULES / "prometheus.yml").read_text())
        (scrape,) = config["scrape_configs"]
        scrape["static_configs"] = [{"targets": [self.target]}]
        config["global"] = {"scrape_interval": every, "evaluation_interval": every}
        config["rule_files"] = [str(path) for path in self._rules(every)]
        del config["alerting"]
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(config))

    def _rules(self, every: str) -> Iterator[Path]:
        for path in sorted((RULES / "rules").glob("*.yaml")):
            document = yaml.safe_load(path.read_text())
            for group in document["groups"]:
                group["interval"] = every
            copy = self.folder / path.name
            copy.write_text(yaml.safe_dump(document))
            yield copy

    def start(self) -> None:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    binary("prometheus"),
                    f"--config.file={self.folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self.folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                    "--enable-feature=exemplar-storage",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
            )
        self.until(self._up, START_SECONDS)

    def stop(self) -> None:
        self.http.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def until(self, check: Callable[[], bool], seconds: float = 30.0) -> None:
        """Wait until it holds."""
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(httpx.TransportError):
                if check():
                    return
            ended = self._process is None or self._process.poll() is not None
            assert not ended, self._log.read_text()[-3000:]
            assert time.monotonic() < deadline, self._log.read_text()[-3000:]
            time.sleep(0.2)

    def scraped(self, times: int = 2) -> None:
        """Wait until as many scrapes more are stored."""
        seen = {self._last_scrape()}
        self.until(lambda: bool(seen.add(self._last_scrape())) or len(seen) > times)

    def _up(self) -> bool:
        """Whether it has scraped; until it has read its own files it answers 503 in plain text."""
        answer = self.http.get("/query", params={"query": "up == 1"})
        return answer.is_success and bool(answer.json()["data"]["result"])

    def _last_scrape(self) -> float:
        found = self.query("timestamp(up)")
        return float(found[0]["value"][1]) if found else 0.0

    def get(self, path: str, **parameters: Any) -> Any:
        """The data of an answer; an error of the query is an AssertionError that has its text."""
        answer = self.http.get(path, params=parameters)
        body = answer.json()
        assert body["status"] == "success", body.get("error", answer.text)
        return body["data"]

    def query(self, expr: str) -> list[dict[str, Any]]:
        """Series with their values now."""
        result: list[dict[str, Any]] = self.get("/query", query=expr)["result"]
        return result

    def range(self, expr: str, seconds: float, step: float) -> list[dict[str, Any]]:
        """Series with their values of the last seconds."""
        end = time.time()
        result: list[dict[str, Any]] = self.get(
            "/query_range", query=expr, start=end - seconds, end=end, step=step
        )["result"]
        return result

    def values(self, series: str, label: str) -> list[str]:
        """What a label says in these series, as Grafana asks it."""
        found: list[str] = self.get(f"/label/{label}/values", **{"match[]": series})
        return found

    def exemplars(self, expr: str, seconds: float = 600) -> list[dict[str, Any]]:
        """Exemplars of the series of an expression."""
        end = time.time()
        found: list[dict[str, Any]] = self.get(
            "/query_exemplars", query=expr, start=end - seconds, end=end
        )
        return [exemplar for series in found for exemplar in series["exemplars"]]


@contextlib.contextmanager
def running(folder: Path, target: str, *, every: str = "1s") -> Iterator[Prometheus]:
    """One that has scraped its target once; it is ended afterwards."""
    server = Prometheus(folder, target, every=every)
    try:
        server.start()
        yield server
    finally:
        server.stop()
