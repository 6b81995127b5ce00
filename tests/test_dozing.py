"""Processes that a server spawns sleep while they wait; the server itself is the very command."""

from __future__ import annotations

import runpy
import time
from typing import Any

import pytest
from fire import dozing
from vllm.distributed.device_communicators.shm_broadcast import SpinCondition


class Queue:
    """Looks, as vLLM's condition does, and says what was done in which order."""

    def __init__(self) -> None:
        self.done: list[Any] = []

    def wait(self, timeout_ms: int | None = None) -> None:
        self.done.append(timeout_ms)


def test_it_sleeps_and_then_looks_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue()
    monkeypatch.setattr(Queue, "wait", Queue.wait)
    monkeypatch.setattr(time, "sleep", queue.done.append)
    dozing.patch(Queue)
    queue.wait(timeout_ms=5)
    queue.wait()
    assert queue.done == [dozing.SECONDS, 5, dozing.SECONDS, None]


@pytest.mark.parametrize(("name", "dozes"), [("__mp_main__", True), ("imported", False)])
def test_only_a_spawned_process_dozes(
    name: str, dozes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SpinCondition, "wait", before := SpinCondition.wait)
    runpy.run_path(dozing.__file__, run_name=name)
    assert (SpinCondition.wait is not before) is dozes
