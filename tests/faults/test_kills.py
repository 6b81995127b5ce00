"""kill -9 of the server and of PostgreSQL, anywhere in whatever is going on."""

from __future__ import annotations

import random
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faults.history import History
from faults.processes import Nursery, Server
from postgres import Postgres

PROMPTS = 4


def work(server: Server, histories: list[History], chance: random.Random) -> None:
    """One client for each prompt, until the server (or what it stands on) is gone."""
    left = chance.randrange(1, 40)
    lock, enough = threading.Lock(), threading.Event()

    def go_on(history: History) -> None:
        nonlocal left
        while history.go_on(server):
            with lock:
                left -= 1
                if left == 0:
                    enough.set()

    clients = [threading.Thread(target=go_on, args=(history,)) for history in histories]
    for client in clients:
        client.start()
    assert enough.wait(120)
    # Somewhere in the calls that come next: each takes some milliseconds.
    time.sleep(chance.uniform(0, 0.03))
    server.fail()
    for client in clients:
        client.join()


def whole(server: Server, histories: list[History]) -> None:
    for history in histories:
        history.settle(server)
    audit = server.call("GET", "/audit", params={"limit": 1000}).json()["data"]
    revisions = [entry["revision"] for entry in audit]
    assert revisions == list(range(revisions[0], revisions[0] - len(revisions), -1))


def report(what: str, histories: list[History], seconds: list[float]) -> None:
    done = sum(history.acknowledged for history in histories)
    sys.stdout.write(
        f"{what}: {len(seconds)} kills, {done} changes acknowledged, back after "
        f"{statistics.median(seconds):.2f} s (median; longest {max(seconds):.2f} s)\n"
    )


def test_a_server_that_is_killed_anywhere_loses_nothing_and_shows_nothing_half(
    servers: Nursery,
    database_url: str,
    tmp_path: Path,
    luck: Any,
) -> None:
    server = servers.server(tmp_path / "home", database_url=database_url)
    server.fail = server.kill
    histories = [History(f"p{n}", random.Random(luck.chance.random())) for n in range(PROMPTS)]
    seconds = []
    server.start()
    for _ in luck.rounds(4):
        work(server, histories, luck.chance)
        server.start()
        seconds.append(server.started_seconds)
        whole(server, histories)
    server.stop()
    report(f"server on {database_url.partition(':')[0]}", histories, seconds)


def test_a_killed_postgresql_loses_nothing_and_the_server_goes_on_by_itself(
    servers: Nursery,
    postgres: Postgres,
    postgres_url: str,
    tmp_path: Path,
    luck: Any,
) -> None:
    server = servers.server(tmp_path / "home", database_url=postgres_url)
    server.fail = postgres.kill
    histories = [History(f"p{n}", random.Random(luck.chance.random())) for n in range(PROMPTS)]
    seconds = []
    server.start()
    pid = server.pid
    for _ in luck.rounds(2):
        work(server, histories, luck.chance)
        # What was there goes on being answered.
        assert server.call("GET", "/readyz").status_code == 200
        postgres.start()
        began = time.monotonic()
        until(lambda: server.call("GET", "/audit").status_code == 200)
        until(lambda: server.call("GET", "/readyz").json()["checks"]["catalogue"] == "ok")
        seconds.append(time.monotonic() - began)
        whole(server, histories)
    assert server.pid == pid
    assert server.alive()
    server.stop()
    report("PostgreSQL", histories, seconds)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)
