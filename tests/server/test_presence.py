"""A replica says that it lives."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Mapping

import pytest

from softprompt_serve.errors import Unavailable
from softprompt_serve.registry.database import Database
from softprompt_serve.registry.replicas import Replicas, Serving
from softprompt_serve.server.presence import Presence

SERVED = (7, {"support": Serving(3, ("v1",))})


class Beats:
    """Keeps what was told, and can be down or slow."""

    def __init__(self) -> None:
        self.told: list[tuple[int, Mapping[str, Serving]]] = []
        self.left: list[str] = []
        self.down = False
        self.gate = threading.Event()
        self.gate.set()
        self.running = 0
        self.overlaps = 0

    def beat(self, id: str, name: str, revision: int, rollouts: Mapping[str, Serving]) -> None:  # noqa: A002
        self.running += 1
        self.overlaps += self.running > 1
        self.gate.wait(10)
        self.running -= 1
        if self.down:
            msg = "down"
            raise Unavailable(msg)
        self.told.append((revision, rollouts))

    def leave(self, id: str) -> None:  # noqa: A002
        if self.down:
            msg = "down"
            raise Unavailable(msg)
        self.left.append(id)


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def present(
    beats: Beats,
    steps: Callable[[Presence], Awaitable[None]],
    *,
    state: Callable[[], tuple[int, Mapping[str, Serving]]] = lambda: SERVED,
    every: float = 60,
) -> None:
    """Run ``steps`` with a presence that is started and stopped."""

    async def run() -> None:
        presence = Presence(beats, "a", "pod-a", state, every)  # type: ignore[arg-type]
        await presence.start()
        try:
            await steps(presence)
        finally:
            beats.gate.set()
            await presence.stop()

    asyncio.run(run())


def test_it_beats_at_the_start_and_leaves_in_the_end() -> None:
    beats = Beats()

    async def steps(presence: Presence) -> None:
        await until(lambda: beats.told == [SERVED])

    present(beats, steps)
    assert beats.left == ["a"]


def test_it_beats_every_so_often() -> None:
    beats = Beats()

    async def steps(presence: Presence) -> None:
        await until(lambda: len(beats.told) >= 4)

    present(beats, steps, every=0.01)


def test_a_report_beats_at_once_with_what_is_served_now() -> None:
    beats, revisions = Beats(), [1]

    async def steps(presence: Presence) -> None:
        await until(lambda: len(beats.told) == 1)
        revisions[0] = 2
        presence.report()
        await until(lambda: beats.told == [(1, {}), (2, {})])

    present(beats, steps, state=lambda: (revisions[0], {}))


def test_reports_during_a_beat_become_one_more() -> None:
    beats = Beats()
    beats.gate.clear()

    async def steps(presence: Presence) -> None:
        await until(lambda: beats.running == 1)
        for _ in range(5):
            presence.report()
        beats.gate.set()
        await until(lambda: len(beats.told) == 2)
        await asyncio.sleep(0.05)
        assert (len(beats.told), beats.overlaps) == (2, 0)

    present(beats, steps)


def test_a_slow_database_does_not_hold_the_event_loop() -> None:
    beats = Beats()
    beats.gate.clear()

    async def steps(presence: Presence) -> None:
        await until(lambda: beats.running == 1)  # which itself needs the loop
        await asyncio.sleep(0)

    present(beats, steps)


def test_a_lost_database_is_logged_once_and_so_is_its_return(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="softprompt_serve.server.presence")
    beats, looks = Beats(), []
    beats.down = True

    def state() -> tuple[int, Mapping[str, Serving]]:
        looks.append(1)
        return SERVED

    async def steps(presence: Presence) -> None:
        await until(lambda: len(looks) > 5)
        assert presence.error is not None
        beats.down = False
        await until(lambda: len(beats.told) > 3)
        assert presence.error is None

    present(beats, steps, state=state, every=0.005)
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


def test_stopping_works_without_a_database() -> None:
    beats = Beats()
    beats.down = True

    async def steps(presence: Presence) -> None:
        presence.report()

    present(beats, steps)
    assert beats.left == []


def test_what_cannot_be_told_ends_no_beating() -> None:
    beats, attempts = Beats(), []

    def state() -> tuple[int, Mapping[str, Serving]]:
        attempts.append(1)
        if len(attempts) < 3:
            msg = "not yet"
            raise RuntimeError(msg)
        return SERVED

    async def steps(presence: Presence) -> None:
        await until(lambda: beats.told != [])

    present(beats, steps, state=state, every=0.005)


def test_others_see_it_in_the_database(database_url: str) -> None:
    database = Database.open(database_url)
    replicas = Replicas(database)

    async def run() -> None:
        presence = Presence(replicas, "a", "pod-a", lambda: SERVED, 60)
        await presence.start()
        await until(lambda: [replica.name for replica in replicas.live(5)] == ["pod-a"])
        await presence.stop()

    asyncio.run(run())
    assert replicas.live(5) == []
    database.close()
