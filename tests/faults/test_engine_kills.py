"""kill -9 of the engine's core and of its worker, anywhere in whatever is going on."""

from __future__ import annotations

import os
import random
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2e.harness import Server
from faults.engine import Callers, Publisher, answer_of, kill, until_gone
from faults.history import History, tensor
from fire import tiny
from rich.console import Console

from softprompt_serve.demo.prepare import prepare

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(
        "FAULT_ROUNDS" not in os.environ,
        reason="minutes, for `make faults`; tests/e2e has one of these",
    ),
]

HIDDEN = tiny.SHAPE["hidden_size"]
PROMPTS = 3
KEPT = ("v1", "v2", "v3")
SHARE = 5
"""An engine takes half a minute to start: so many times fewer rounds than of other faults."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny one of random weights."""
    given = os.environ.get("DEMO_MODEL")
    demo = Path(given) if given else tmp_path_factory.mktemp("demo") / "model"
    prepare(demo, Console(stderr=True))
    return tiny.make(tmp_path_factory.mktemp("tiny") / "model", demo)


@pytest.fixture
def server(model: Path, tmp_path: Path) -> Iterator[Server]:
    flags = ("--max-model-len", "512", "--max-num-seqs", "8", "--enforce-eager")
    made = Server(model, tmp_path / "home", flags=flags)
    try:
        yield made.start()
    finally:
        made.stop()


def kept(server: Server) -> dict[str, str]:
    """Versions that nobody changes, and what each answers."""
    admin = server.admin()
    for seed, name in enumerate(KEPT):
        admin.imported("kept", tensor(8, seed, HIDDEN), version=name)
    admin.alias("kept", "production", "v1")
    wanted = {f"kept@{name}": answer_of(server, f"kept@{name}") for name in KEPT}
    assert len(set(wanted.values())) == len(KEPT)
    return wanted


@pytest.mark.parametrize("what", ["engine core", "worker"])
def test_a_killed_engine_is_an_error_to_all_and_a_restart_has_all_that_was_acknowledged(
    server: Server, luck: Any, what: str
) -> None:
    wanted = kept(server)
    histories = [
        History(f"p{n}", random.Random(luck.chance.random()), HIDDEN) for n in range(PROMPTS)
    ]
    gone, back, came = [], [], {}
    for _ in range(max(1, len(luck.rounds(SHARE)) // SHARE)):
        callers = Callers(server, ["kept", *wanted], wanted)
        with callers.asking(luck.chance.randrange(2**31)):
            work(server, histories, luck.chance, what)
            seconds, _status, said = until_gone(server)
        assert callers.wrong == []
        assert callers.came["answered"]
        assert callers.came["refused"] + callers.came["broken off"]
        assert httpx.codes.OK not in said, "ready, with a dead engine"
        gone.append(seconds)
        began = time.monotonic()
        server.start()
        back.append(time.monotonic() - began)
        for history in histories:
            history.settle(Publisher(server))
        assert {label: answer_of(server, label) for label in wanted} == wanted
        came = {how: came.get(how, 0) + count for how, count in callers.came.items()}
    done = sum(history.acknowledged for history in histories)
    sys.stdout.write(
        f"{what}: {len(gone)} kills, {done} changes acknowledged, answers {came}; the server gone "
        f"after {statistics.median(gone):.1f} s (longest {max(gone):.1f} s), back after "
        f"{statistics.median(back):.1f} s (longest {max(back):.1f} s)\n"
    )


def work(server: Server, histories: list[History], chance: random.Random, what: str) -> None:
    """One publisher for each prompt; the process is killed in the middle of what they do."""
    enough = threading.Barrier(PROMPTS + 1)
    left = [chance.randrange(2, 12) for _ in histories]

    def go_on(history: History, calls: int) -> None:
        publisher = Publisher(server)
        made = 0
        while history.go_on(publisher):
            made += 1
            if made == calls:
                enough.wait(120)

    publishers = [
        threading.Thread(target=go_on, args=given) for given in zip(histories, left, strict=True)
    ]
    for publisher in publishers:
        publisher.start()
    enough.wait(120)
    time.sleep(chance.uniform(0, 0.2))  # somewhere in the calls that come next
    kill(server, what)
    for publisher in publishers:
        publisher.join()
