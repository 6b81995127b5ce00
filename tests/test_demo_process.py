"""The demo's one command as a process; its server is the real admin API without an engine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from softprompt_serve.cli.upload import CONFIG
from softprompt_serve.demo import serve
from softprompt_serve.demo.prepare import FILES, MODEL_NAME
from softprompt_serve.demo.recipes import LORA
from softprompt_serve.demo.seed import PROMPTS
from softprompt_serve.testing import ADMIN_TOKEN

# Stands for `softprompt-serve serve`: the admin API on the asked port, with a process of its own.
FAKE_SERVER = """
import os, subprocess, sys
from pathlib import Path
import uvicorn
from softprompt_serve.artifact.checks import KvShape
from softprompt_serve.demo.prepare import MODEL_NAME
from softprompt_serve.demo.serve import BASE_REVISION
from softprompt_serve.release.records import BaseModelIdentity
from softprompt_serve.testing import FakeWorkers, app_for_tests, service_for_tests

port, home = int(sys.argv[1]), Path(os.environ["SOFTPROMPT_HOME"])
engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
(home / "pids").write_text(f"{os.getpid()} {engine.pid}")
identity = BaseModelIdentity(name=MODEL_NAME, revision=BASE_REVISION)
workers = FakeWorkers(hidden_size=576, kv=KvShape(30, 3, 64))
service = service_for_tests(home, workers=workers, identity=identity)
uvicorn.run(app_for_tests(service), host="127.0.0.1", port=port)
"""

DEMO = """
import signal, sys, typer
signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may run in the background
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # or under nohup
from softprompt_serve.demo import child, serve
child._LEFTOVER_SECONDS = 0.5  # the stand-in for an engine doesn't notice that its server ended
serve.command = lambda directory, host, port, flags, cpu: [sys.executable, *{command!r}, str(port)]
typer.run(serve.main)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def until(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def demo(home: Path, *command: str, port: int) -> subprocess.Popen[str]:
    model = home / "demo" / MODEL_NAME
    model.mkdir(parents=True)
    for name in FILES:
        (model / name).touch()
    kept = {name: value for name, value in os.environ.items() if "SOFTPROMPT" not in name}
    environment = kept | {"SOFTPROMPT_HOME": str(home), "SOFTPROMPT_ADMIN_TOKEN": ADMIN_TOKEN}
    return subprocess.Popen(
        [sys.executable, "-c", DEMO.format(command=command), "--port", str(port)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_demo_and_everything_it_started(
    tmp_path: Path, number: signal.Signals
) -> None:
    port = free_port()
    running = demo(tmp_path, "-c", FAKE_SERVER, port=port)
    assert running.stdout is not None
    shown = []
    for line in running.stdout:
        shown.append(line)
        if "Ctrl-C" in line:
            break
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert all(map(alive, pids)), "".join(shown)
    running.send_signal(number)
    rest = running.stdout.read()
    assert running.wait(60) == 0, rest
    running.stdout.close()
    until(lambda: not any(map(alive, pids)))
    serve.check_free("127.0.0.1", port)


def test_a_signal_during_the_start_ends_the_server_too(tmp_path: Path) -> None:
    slow = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    running = demo(tmp_path, "-c", slow, port=free_port())
    log = tmp_path / "demo" / "server.log"
    until(lambda: log.exists() and log.read_text())
    running.send_signal(signal.SIGHUP)
    shown, _ = running.communicate(timeout=60)
    assert running.returncode == 0, shown
    assert not alive(int(log.read_text()))


def test_the_shipped_versions_are_served_when_the_demo_is_ready(tmp_path: Path) -> None:
    port = free_port()
    running = demo(tmp_path, "-c", FAKE_SERVER, port=port)
    assert running.stdout is not None
    shown = "".join(iter(lambda: _line_until_ready(running), ""))
    headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    url = f"http://127.0.0.1:{port}/softprompts/v1/prompts"
    served = httpx.get(url, headers=headers, trust_env=False).json()
    running.terminate()
    running.communicate(timeout=60)
    versions = [version["version"] for prompt in served["data"] for version in prompt["versions"]]
    whole = [path.parent for path in PROMPTS.glob("*/*") if path.name in {"text.txt", CONFIG}]
    labels = sorted(path.name.removeprefix("support-") for path in whole)
    assert sorted([*versions, LORA]) == labels, shown


def _line_until_ready(running: subprocess.Popen[str]) -> str:
    assert running.stdout is not None
    line = running.stdout.readline()
    return "" if "Ctrl-C" in line else line


def test_a_server_that_does_not_start_is_explained_with_its_log(tmp_path: Path) -> None:
    broken = "print('CRITICAL softprompt-serve refuses to start: no overlay.'); raise SystemExit(3)"
    running = demo(tmp_path, "-c", broken, port=free_port())
    shown, _ = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "did not start (status 3): no overlay." in shown
    assert str(tmp_path / "demo" / "server.log") in shown


def test_a_taken_port_ends_the_demo_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        running = demo(tmp_path, "-c", FAKE_SERVER, port=port)
        shown, _ = running.communicate(timeout=60)
    assert running.returncode == 1
    assert f"PORT={port + 1}" in shown
    assert not (tmp_path / "demo" / "server.log").exists()
