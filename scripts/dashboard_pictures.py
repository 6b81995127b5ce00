"""Draws ``docs/pictures/dashboards-*.png``, or the dashboards over a Prometheus that is there.

Without ``--prometheus`` an afternoon is simulated with the project's real metrics, and written into a
Prometheus that is started for it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx
from afternoon import MINUTE, MINUTES, Afternoon
from debian import ROOT, tool

sys.path.insert(0, str(ROOT / "deploy" / "grafana"))

from dashboards.answers import Answers, Span
from dashboards.draw import Picture

if TYPE_CHECKING:
    from collections.abc import Iterator

BOARDS: Final = ROOT / "deploy" / "grafana" / "json"
PICTURES: Final = ROOT / "docs" / "pictures"
AFTERNOON: Final = 1767272400.0
"""Unix time at which the simulated afternoon begins: 1 January 2026, 13:00 UTC."""

READY_SECONDS: Final = 60.0


@contextlib.contextmanager
def simulated(folder: Path) -> Iterator[str]:
    """A Prometheus that has seen the afternoon; yields its address."""
    page = folder / "afternoon.txt"
    with page.open("w") as sink:
        Afternoon().write(sink, AFTERNOON)
    promtool = tool("promtool", "prometheus")
    backfill = [
        str(promtool),
        "tsdb",
        "create-blocks-from",
        "openmetrics",
        str(page),
        str(folder / "data"),
    ]
    subprocess.run(backfill, check=True, capture_output=True)
    (folder / "prometheus.yml").write_text("global: {}\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                tool("prometheus", "prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                "--storage.tsdb.retention.time=100y",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stderr=log,
        )
    try:
        _ready(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _ready(url: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/-/ready").is_success:
                return
        time.sleep(0.2)
    msg = "Prometheus did not become ready."
    raise TimeoutError(msg)


def draw(url: str, span: Span, into: Path) -> None:
    """Draw each dashboard as Prometheus answers it."""
    into.mkdir(parents=True, exist_ok=True)
    with httpx.Client(base_url=url, timeout=60) as http:
        for path in sorted(BOARDS.glob("*.json")):
            board = json.loads(path.read_text())
            picture = into / f"dashboards-{path.stem}.png"
            Picture(board, Answers(http, board, span), span).save(picture)
            print(f"drew {picture.name}, {picture.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prometheus", metavar="URL", help="ask this one, about the last hours")
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--every", type=float, default=15.0, help="seconds from scrape to scrape")
    parser.add_argument("--into", type=Path, default=PICTURES, metavar="FOLDER")
    given = parser.parse_args()
    if given.prometheus:
        now = time.time()
        step = max(given.hours * 20, given.every)  # 180 points
        draw(given.prometheus, Span(now - given.hours * 3600, now, step, given.every), given.into)
        return
    end = AFTERNOON + (MINUTES - 1) * MINUTE
    with (
        tempfile.TemporaryDirectory(prefix="softprompt-pictures-") as folder,
        simulated(Path(folder)) as url,
    ):
        draw(url, Span(AFTERNOON, end, MINUTE, MINUTE), given.into)


if __name__ == "__main__":
    main()
