"""Whatever happens in whatever order: limits hold and no copy is lost from the counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from shadows import FakeEngine, answer, job

from softprompt_serve.shadow.counts import Counts
from softprompt_serve.shadow.ledger import Ledger
from softprompt_serve.shadow.runner import Pending, Runner
from softprompt_serve.shadow.types import Answer, Job

CONCURRENCY = 3

events = st.sampled_from(
    ["offer", "offer", "offer", "answer", "drop", "finish", "fail", "busy", "idle", "pressure"]
)


class World:
    """A runner whose engine finishes calls one by one when it is told to."""

    def __init__(self) -> None:
        self.engine = FakeEngine()
        self.ledger = Ledger()
        self.calls: list[asyncio.Future[Answer]] = []
        self.offered = 0
        self.pending: list[Pending] = []
        self.engine.generating = self._call
        self.runner = Runner(self.engine, self.ledger, capture=None, max_pending=8)

    async def _call(self, job: Job) -> Answer:
        call = asyncio.get_running_loop().create_future()
        self.calls.append(call)
        return await call

    def offer(self) -> None:
        self.offered += 1
        limits = {"max_concurrency": CONCURRENCY, "max_tokens_per_second": 1e9}
        pending = self.runner.offer(job(f"r{self.offered}", **limits))
        if pending is not None:
            self.pending.append(pending)

    def finish(self, end: Callable[[asyncio.Future[Answer]], None]) -> None:
        if self.calls:
            call = self.calls.pop(0)
            if not call.done():
                end(call)

    def happen(self, event: str) -> None:
        if event == "offer":
            self.offer()
        elif event in {"answer", "drop"} and self.pending:
            pending = self.pending.pop(0)
            pending.answered(answer()) if event == "answer" else pending.dropped()
        elif event == "finish":
            self.finish(lambda call: call.set_result(answer()))
        elif event == "fail":
            self.finish(lambda call: call.set_exception(RuntimeError()))
        elif event in {"busy", "idle"}:
            self.engine.users_wait = event == "busy"
        elif event == "pressure":
            self.runner.pressure()


@settings(max_examples=60)
@given(st.lists(st.tuples(events, st.integers(0, 3)), max_size=60))
def test_every_copy_ends_up_in_one_count(happenings: list[tuple[str, int]]) -> None:
    async def live() -> World:
        world = World()
        for event, turns in happenings:
            world.happen(event)
            for _ in range(turns):
                await asyncio.sleep(0)
            assert world.engine.now <= CONCURRENCY
            assert world.runner.pending <= 8
        await world.runner.stop()
        return world

    world = asyncio.run(live())
    counts = Counts.merged(tally.data for tally in world.ledger.dirty("here"))
    assert counts["offered"] == world.offered
    assert counts["pairs"] + sum(counts.shed.values()) == world.offered
    assert world.runner.pending == world.engine.now == 0
