"""Copies never touch a user's request, stay within their budget, and are all accounted for."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

import pytest
from shadows import FakeEngine, answer, hang, job, until

from softprompt_serve.shadow.capture import Capture
from softprompt_serve.shadow.counts import Counts
from softprompt_serve.shadow.ledger import Ledger
from softprompt_serve.shadow.runner import Pending, Runner
from softprompt_serve.shadow.types import Answer, Job

pytestmark = pytest.mark.anyio


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Shadows:
    """A runner with a fake engine, and what it has counted."""

    def __init__(self, **given: Any) -> None:
        self.engine = FakeEngine()
        self.ledger = Ledger()
        self.clock = Clock()
        self.capture = Capture(10)
        options = {"capture": self.capture, "clock": self.clock, "poll_seconds": 0.001} | given
        self.runner = Runner(self.engine, self.ledger, **options)

    def offer(self, job: Job) -> Pending:
        pending = self.runner.offer(job)
        assert pending is not None
        return pending

    @property
    def counts(self) -> Counts:
        tallies = self.ledger.dirty("here")
        self.ledger.unwritten(tallies)
        return Counts.merged(tally.data for tally in tallies)

    @property
    def shed(self) -> dict[str, int]:
        return self.counts.shed

    async def done(self) -> None:
        await until(lambda: self.runner.pending == 0)


class Gate:
    """An answer that comes when it is told to."""

    def __init__(self, found: Answer | None = None) -> None:
        self.open = asyncio.Event()
        self.found = found or answer()

    async def __call__(self, job: Job) -> Answer:
        await self.open.wait()
        return self.found


async def test_a_pair_is_compared_when_both_answers_are_there() -> None:
    s = Shadows()
    pending = s.offer(job())
    await until(lambda: s.engine.entered == ["r1"])
    assert s.counts["pairs"] == 0
    pending.answered(answer())
    await s.done()
    assert (s.counts["offered"], s.counts["pairs"], s.counts["exact"]) == (1, 1, 1)
    assert s.shed == {}


async def test_the_user_may_be_answered_first() -> None:
    s = Shadows()
    s.engine.generating = gate = Gate(answer("Bye"))
    s.offer(job()).answered(answer())
    await until(lambda: s.engine.now == 1)
    gate.open.set()
    await s.done()
    assert (s.counts["pairs"], s.counts["mismatches"]) == (1, 1)


async def test_offering_does_not_wait_for_the_engine() -> None:
    s = Shadows()
    s.engine.generating = hang
    pending = s.offer(job())
    assert s.engine.entered == []  # nothing of it has run in the user's task
    pending.dropped()
    await s.done()


@pytest.mark.parametrize("broken", ["busy", "shed", "offered"])
async def test_offering_never_raises(broken: str) -> None:
    s = Shadows()

    def fail(*_: object) -> Any:
        raise RuntimeError

    setattr(s.engine if broken == "busy" else s.ledger, broken, fail)
    s.engine.users_wait = broken == "shed"
    assert s.runner.offer(job()) is None


async def test_what_fails_to_begin_is_counted() -> None:
    s = Shadows()
    s.offer(job("r1"))
    assert s.runner.offer(job("r1")) is None  # the same id again
    assert s.shed == {"failed": 1}
    await s.runner.stop()


async def test_a_hanging_shadow_is_ended_at_its_timeout() -> None:
    s = Shadows()
    s.engine.generating = hang
    pending = s.offer(job(timeout_seconds=0.01))
    await s.done()
    pending.answered(answer())
    assert s.engine.cancelled == ["r1"]
    assert s.shed == {"timeout": 1}
    assert s.counts["pairs"] == 0


async def test_hanging_scores_are_ended_at_the_timeout_together() -> None:
    s = Shadows()
    s.engine.scoring = hang  # type: ignore[assignment]
    s.offer(job(mode="score", timeout_seconds=0.01)).answered(answer())
    await s.done()
    assert s.shed == {"timeout": 1}


async def test_an_engine_that_answers_its_end_with_an_error_still_ran_out_of_time() -> None:
    s = Shadows()

    async def stubborn(job: Job) -> Answer:
        try:
            return await hang(job)
        except asyncio.CancelledError:
            raise RuntimeError from None

    s.engine.generating = stubborn
    s.offer(job(timeout_seconds=0.01))
    await s.done()
    assert s.shed == {"timeout": 1}


async def test_an_engines_own_timeout_is_a_failure() -> None:
    s = Shadows()

    async def late(job: Job) -> Answer:
        raise TimeoutError

    s.engine.generating = late
    s.offer(job())
    await s.done()
    assert s.shed == {"failed": 1}


async def test_a_failing_shadow_is_counted_and_leaves_no_text_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    s = Shadows()

    async def fail(job: Job) -> Answer:
        msg = "the user's secret"
        raise RuntimeError(msg)

    s.engine.generating = fail
    for number in range(5):
        s.offer(job(f"r{number}", max_tokens_per_second=1e6)).answered(answer("another secret"))
        await s.done()
    assert s.shed == {"failed": 5}
    (record,) = caplog.records  # once a minute
    assert "RuntimeError" in record.getMessage()
    assert "secret" not in caplog.text


async def test_an_error_is_logged_again_after_a_while_with_how_many_there_were(
    caplog: pytest.LogCaptureFixture,
) -> None:
    s = Shadows()

    async def fail(job: Job) -> Answer:
        raise RuntimeError

    s.engine.generating = fail
    for number in range(4):
        s.clock.now = 61.0 if number == 3 else 0.0
        s.offer(job(f"r{number}", max_tokens_per_second=1e6))
        await s.done()
    assert [("2 more" in r.getMessage()) for r in caplog.records] == [False, True]


async def test_pressure_ends_what_runs_and_keeps_what_only_waits() -> None:
    s = Shadows()
    waits = s.offer(job("waits"))
    await until(lambda: s.engine.entered == ["waits"] and s.engine.now == 0)
    s.engine.generating = hang
    s.offer(job("runs"))
    await until(lambda: s.engine.now == 1)
    s.runner.pressure()
    await until(lambda: s.engine.cancelled == ["runs"])
    waits.answered(answer())
    await s.done()
    assert s.shed == {"busy": 1}
    assert s.counts["pairs"] == 1


async def test_nothing_begins_while_users_wait() -> None:
    s = Shadows()
    s.engine.users_wait = True
    assert s.runner.offer(job()) is None
    assert s.shed == {"busy": 1}
    s.engine.users_wait = False
    s.offer(job()).dropped()
    await s.done()


async def test_what_runs_ends_by_itself_when_users_begin_to_wait() -> None:
    s = Shadows()
    s.engine.generating = hang
    s.offer(job())
    await until(lambda: s.engine.now == 1)
    s.engine.users_wait = True
    await s.done()
    assert s.shed == {"busy": 1}


async def test_an_engine_that_cant_be_asked_may_have_users_waiting() -> None:
    s = Shadows()
    s.engine.generating = hang
    s.offer(job())

    def fail() -> bool:
        raise RuntimeError

    s.engine.busy = fail  # type: ignore[method-assign]
    await s.done()
    assert s.shed == {"busy": 1}


async def test_an_engine_that_overhears_its_end_is_ended_all_the_same() -> None:
    s = Shadows()

    async def deaf(job: Job) -> Answer:
        try:
            return await hang(job)
        except asyncio.CancelledError:
            return answer()

    s.engine.generating = deaf
    pending = s.offer(job())
    await until(lambda: s.engine.now == 1)
    s.runner.pressure()
    pending.answered(answer())
    await s.done()
    assert s.shed == {"busy": 1}
    assert s.counts["pairs"] == 0


async def test_ending_it_twice_does_not_disturb_how_it_ends() -> None:
    s = Shadows()
    aborted = []

    async def tidy(job: Job) -> Answer:
        try:
            return await hang(job)
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # as an engine that tells another process
            aborted.append(job.request_id)
            raise

    s.engine.generating = tidy
    pending = s.offer(job())
    await until(lambda: s.engine.now == 1)
    s.runner.pressure()
    await asyncio.sleep(0)
    s.runner.pressure()
    pending.dropped()
    await s.done()
    assert aborted == ["r1"]


async def test_a_users_cancellation_drops_the_pair() -> None:
    s = Shadows()
    pending = s.offer(job())
    await until(lambda: s.engine.entered == ["r1"] and s.engine.now == 0)
    pending.dropped()  # though the shadow's answer is there
    pending.answered(answer())
    await s.done()
    assert s.shed == {"user_ended": 1}
    assert s.counts["pairs"] == 0


async def test_a_users_cancellation_ends_the_shadow_that_runs() -> None:
    s = Shadows()
    s.engine.generating = hang
    pending = s.offer(job())
    await until(lambda: s.engine.now == 1)
    pending.dropped()
    await until(lambda: s.engine.cancelled == ["r1"])


async def test_one_that_is_dropped_at_once_never_enters_the_engine() -> None:
    s = Shadows()
    s.offer(job(max_concurrency=1)).dropped()
    await s.done()
    assert s.engine.entered == []
    assert s.shed == {"user_ended": 1}
    s.offer(job(max_concurrency=1)).answered(answer())  # its place is free again
    await s.done()


async def test_dropping_means_nothing_once_the_user_was_answered() -> None:
    s = Shadows()
    pending = s.offer(job())
    pending.answered(answer())
    pending.dropped()
    pending.answered(answer("twice"))
    await s.done()
    assert (s.counts["pairs"], s.counts["exact"]) == (1, 1)


async def test_what_pressure_ended_stays_counted_as_that() -> None:
    s = Shadows()
    s.engine.generating = hang
    pending = s.offer(job())
    await until(lambda: s.engine.now == 1)
    s.runner.pressure()
    pending.dropped()
    await s.done()
    assert s.shed == {"busy": 1}


async def test_as_many_run_at_once_as_the_shadow_allows() -> None:
    s = Shadows()
    s.engine.generating = gate = Gate()
    limits = {"max_concurrency": 2, "max_tokens_per_second": 1e6}
    found = [s.runner.offer(job(f"r{n}", **limits)) for n in range(5)]
    assert [pending is not None for pending in found] == [True, True, False, False, False]
    assert s.shed == {"budget_concurrency": 3}
    await until(lambda: s.engine.now == 2)
    gate.open.set()
    await until(lambda: s.engine.now == 0)
    s.offer(job("r5", **limits))  # those that wait for their users hold no place
    await s.runner.stop()
    assert s.engine.most == 2
    assert s.shed == {"budget_concurrency": 3, "stopped": 3}


async def test_tokens_that_were_generated_are_paid_before_the_next_begins() -> None:
    s = Shadows()
    s.engine.generating = Gate(answer(output_tokens=1_000))
    s.engine.generating.open.set()  # type: ignore[attr-defined]
    s.offer(job("r1", max_tokens_per_second=100.0)).answered(answer())
    await s.done()
    s.clock.now = 9.0
    assert s.runner.offer(job("r2", max_tokens_per_second=100.0)) is None
    assert s.shed == {"budget_tokens": 1}
    s.clock.now = 9.1
    s.offer(job("r3", max_tokens_per_second=100.0)).answered(answer())
    await s.done()


async def test_memory_is_bounded_over_all_prompts() -> None:
    s = Shadows(max_pending=2)
    found = [s.runner.offer(job(f"r{n}", prompt=f"p{n}")) for n in range(3)]
    assert found[2] is None
    assert s.shed == {"budget_pending": 1}
    await s.runner.stop()


async def test_stopping_ends_everything_and_waits_for_it() -> None:
    s = Shadows()
    s.offer(job("waits", max_concurrency=9))
    await until(lambda: s.engine.entered == ["waits"])
    s.engine.generating = hang
    s.offer(job("runs", max_concurrency=9))
    await until(lambda: s.engine.now == 1)
    s.offer(job("not begun", max_concurrency=9))
    await s.runner.stop()
    assert s.runner.pending == 0
    assert s.engine.cancelled == ["runs"]
    assert s.runner.offer(job("late")) is None
    assert s.shed == {"stopped": 4}


async def test_scoring_asks_both_versions_about_the_users_answer() -> None:
    s = Shadows()
    pending = s.offer(job(mode="score"))
    assert s.runner.pending == 1
    pending.answered(answer("three words long"))
    await s.done()
    assert s.engine.entered == []
    assert s.engine.scored == [("r1", "v2"), ("r1", "v1")]
    assert (s.counts["scored"], s.counts["scored_tokens"], s.counts["pairs"]) == (1, 3, 0)
    assert s.counts.means["divergence"].mean == 0.25
    assert s.counts.means["surprise"].mean == 0.75
    assert s.counts.divergence.count == 1


async def test_both_compares_and_scores() -> None:
    s = Shadows()
    s.offer(job(mode="both")).answered(answer())
    await s.done()
    assert (s.counts["pairs"], s.counts["scored"]) == (1, 1)


async def test_a_pair_is_kept_if_its_scoring_is_shed() -> None:
    s = Shadows()
    pending = s.offer(job(mode="both"))
    await until(lambda: s.engine.entered == ["r1"] and s.engine.now == 0)
    s.engine.users_wait = True
    pending.answered(answer())
    await s.done()
    assert (s.counts["pairs"], s.counts["scored"]) == (1, 0)
    assert s.shed == {"busy": 1}


async def test_scoring_has_the_same_budget() -> None:
    s = Shadows()
    s.engine.scoring = hang  # type: ignore[assignment]
    for number in range(3):
        s.offer(job(f"r{number}", mode="score", max_concurrency=1)).answered(answer())
    await until(lambda: s.shed == {"budget_concurrency": 2})
    await s.runner.stop()


async def test_an_empty_answer_has_nothing_to_score() -> None:
    s = Shadows()
    s.offer(job(mode="score")).answered(answer(""))
    await s.done()
    assert s.engine.scored == []
    assert s.shed == {}


async def test_scores_that_dont_fit_the_answer_are_a_failure() -> None:
    s = Shadows()
    s.engine.logprobs["v2"] = float("-inf")
    s.offer(job(mode="score")).answered(answer())
    await s.done()
    assert s.shed == {"failed": 1}


async def test_pairs_are_kept_where_content_is_captured() -> None:
    s = Shadows()
    s.offer(job()).answered(answer("Hi"))
    await s.done()
    (pair,) = s.capture.of("support", 3)
    assert (pair.user.text, pair.shadow.text) == ("Hi", "Hello")


async def test_nothing_is_kept_where_it_is_not() -> None:
    s = Shadows(capture=None)
    s.offer(job()).answered(answer("Hi"))
    await s.done()
    assert s.counts["pairs"] == 1


async def test_a_copy_knows_nothing_of_the_request_it_copies() -> None:
    scope: ContextVar[str] = ContextVar("scope", default="none")
    s = Shadows()
    seen = []

    async def look(job: Job) -> Answer:
        seen.append(scope.get())
        return answer()

    s.engine.generating = look
    scope.set("the user's")
    s.offer(job()).answered(answer())
    await s.done()
    assert seen == ["none"]


async def test_tool_calls_are_only_recorded() -> None:
    s = Shadows()
    call = ("refund", '{"order": 7}')
    s.engine.generating = Gate(answer(tool_calls=(call,)))
    s.engine.generating.open.set()  # type: ignore[attr-defined]
    s.offer(job()).answered(answer())
    await s.done()
    assert (s.counts["tools_compared"], s.counts["tools_equal"]) == (1, 0)
    (pair,) = s.capture.of("support", 3)
    assert pair.shadow.tool_calls == (call,)


async def test_long_answers_are_compared_too() -> None:
    s = Shadows()
    long = answer("word " * 2_000)
    s.engine.generating = Gate(long)
    s.engine.generating.open.set()  # type: ignore[attr-defined]
    s.offer(job()).answered(answer("word " * 1_999))
    await s.done()
    assert s.counts.means["similarity"].mean == pytest.approx(1.0, abs=0.001)
