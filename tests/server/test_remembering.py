"""Answers on their way from a finished request to the database."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from rollout.events import event

from softprompt_serve.errors import Unavailable
from softprompt_serve.server.remembering import Remembering
from softprompt_serve.telemetry.events import Answered, Dropped, TraceRef


class Shelf:
    """Where answers are kept; it may fail."""

    def __init__(self) -> None:
        self.kept: list[Answered] = []
        self.writes = 0
        self.failing = False

    def remember(self, answers: Collection[Answered]) -> None:
        self.writes += 1
        if self.failing:
            msg = "The database is gone."
            raise Unavailable(msg, code="catalogue_unavailable")
        self.kept += answers


class Case:
    def __init__(self, **options: object) -> None:
        self.shelf = Shelf()
        self.lost: list[Dropped] = []
        self.remembering = Remembering(self.shelf, self.lost.append, **options)  # type: ignore[arg-type]

    def ids(self) -> list[str]:
        return [answer.response_id for answer in self.shelf.kept]


def test_what_the_client_read_is_remembered_as_it_was_decided() -> None:
    async def run() -> Answered:
        case = Case()
        trace = TraceRef("a" * 32, "b" * 16)
        case.remembering(event("v2", response_id="chatcmpl-1", trace=trace, cohort="regulated"))
        await case.remembering.flush()
        (found,) = case.shelf.kept
        return found

    found = asyncio.run(run())
    assert (found.response_id, found.prompt, found.version) == ("chatcmpl-1", "support", "v2")
    assert (found.cohort, found.arm, found.compared) == ("regulated", "v2", True)
    assert found.trace == TraceRef("a" * 32, "b" * 16)


def test_requests_that_never_had_an_answer_are_not_remembered() -> None:
    async def run() -> Case:
        case = Case()
        case.remembering(event(response_id=""))
        case.remembering(event(response_id="chatcmpl-1", output_tokens=0))
        await case.remembering.flush()
        return case

    assert asyncio.run(run()).shelf.writes == 0


def test_answers_are_written_by_themselves() -> None:
    async def run() -> None:
        case = Case(every_seconds=0.01)
        await case.remembering.start()
        case.remembering(event(response_id="chatcmpl-1"))
        for _ in range(500):
            if case.shelf.kept:
                break
            await asyncio.sleep(0.01)
        await case.remembering.stop()
        assert case.ids() == ["chatcmpl-1"]

    asyncio.run(run())


def test_what_waits_at_the_end_is_written() -> None:
    async def run() -> list[str]:
        case = Case(every_seconds=60.0)
        await case.remembering.start()
        case.remembering(event(response_id="chatcmpl-1"))
        await case.remembering.stop()
        return case.ids()

    assert asyncio.run(run()) == ["chatcmpl-1"]


def test_what_cannot_be_written_waits_until_it_can() -> None:
    async def run() -> None:
        case = Case()
        case.shelf.failing = True
        case.remembering(event("v1", response_id="chatcmpl-1"))
        await case.remembering.flush()
        case.remembering(event("v2", response_id="chatcmpl-2"))
        case.shelf.failing = False
        await case.remembering.flush()
        assert case.ids() == ["chatcmpl-1", "chatcmpl-2"]
        assert case.lost == []

    asyncio.run(run())


def test_the_oldest_are_lost_and_counted_where_too_many_wait() -> None:
    async def run() -> None:
        case = Case(room=2)
        case.shelf.failing = True
        for number in range(4):
            case.remembering(event(response_id=f"chatcmpl-{number}"))
            await case.remembering.flush()
        case.shelf.failing = False
        await case.remembering.flush()
        assert case.ids() == ["chatcmpl-2", "chatcmpl-3"]
        assert [(lost.what, lost.reason, lost.count) for lost in case.lost] == [
            ("answer", "queue_full", 1),
            ("answer", "queue_full", 1),
        ]

    asyncio.run(run())
