"""Waiting asleep: only where it is asked for, and for what vLLM waits for."""

from __future__ import annotations

import time
from typing import Any

import pytest

from softprompt_serve.vllm_plugin import register, seam, seams
from softprompt_serve.vllm_plugin.doze import SECONDS, patch_queue


class Queue:
    """Looks, as vLLM's condition does, and says what was done in which order."""

    done: list[Any]

    def wait(self, timeout_ms: int | None = None) -> None:
        self.done.append(timeout_ms)


def test_it_sleeps_and_then_looks_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue()
    queue.done = []
    monkeypatch.setattr(Queue, "wait", Queue.wait)
    monkeypatch.setattr(time, "sleep", queue.done.append)
    patch_queue(Queue)
    queue.wait(timeout_ms=5)
    queue.wait()
    assert queue.done == [SECONDS, 5, SECONDS, None]


@pytest.mark.parametrize(("asked", "dozes"), [("true", True), ("false", False), (None, False)])
def test_it_is_patched_where_it_is_asked_for(
    asked: str | None, dozes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    condition = seam.resolve(seams.QUEUE_WAIT)
    monkeypatch.setattr(condition, "wait", before := condition.wait)
    monkeypatch.setattr(register, "REGISTRATION", register.Registration())
    monkeypatch.setattr(register, "_patch", lambda: None)
    monkeypatch.setattr(register.logs, "settle", lambda: None)
    if asked is not None:
        monkeypatch.setenv("SOFTPROMPT_DOZE", asked)
    register.register()
    assert register.REGISTRATION.problem is None
    assert (condition.wait is not before) is dozes


def test_a_queue_that_moved_is_refused_only_where_it_would_be_patched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moved = seam.Seam("vllm.v9:Queue.wait", "sleep", "a setting")
    monkeypatch.setattr(seams, "DOZE_SEAMS", (moved,))
    monkeypatch.setattr(register, "_patch", lambda: None)
    monkeypatch.setattr(register.logs, "settle", lambda: None)
    for asked, problem in (("false", False), ("true", True)):
        monkeypatch.setattr(register, "REGISTRATION", register.Registration())
        monkeypatch.setenv("SOFTPROMPT_DOZE", asked)
        register.register()
        assert (register.REGISTRATION.problem is not None) is problem
        assert register.REGISTRATION.patched is not problem
