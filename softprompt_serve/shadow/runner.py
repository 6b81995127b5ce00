"""Runs copies of users' requests behind them: admitted, bounded, ended for users' sake, counted.

Nothing here may touch a user's request: what its task calls (:meth:`Runner.offer`,
:meth:`Pending.answered`, :meth:`Pending.dropped`) neither waits nor raises. A copy's own task runs
in the context of the server's start, so it knows nothing of the request that it copies.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from softprompt_serve.shadow.budget import Budgets
from softprompt_serve.shadow.compare import compare_aside, likelihood
from softprompt_serve.shadow.complaints import Complaints
from softprompt_serve.shadow.pending import Pending

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from softprompt_serve.shadow.capture import Capture
    from softprompt_serve.shadow.ledger import Ledger
    from softprompt_serve.shadow.types import Answer, Cause, Job, ShadowEngine

__all__ = ["Pending", "Runner"]

MAX_PENDING: Final = 256
POLL_SECONDS: Final = 0.05
STOP_SECONDS: Final = 5.0


class Runner:
    """Owns every copy of this process; all of its methods belong to one event loop.

    Args:
        engine: where copies run.
        ledger: where they are counted.
        capture: what keeps pairs, or None while content capture is off.
        max_pending: copies of all prompts that are kept in memory at once.
        poll_seconds: how often the engine is asked whether users wait, while a copy runs.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        engine: ShadowEngine,
        ledger: Ledger,
        *,
        capture: Capture | None,
        max_pending: int = MAX_PENDING,
        poll_seconds: float = POLL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ledger = ledger
        self._engine = engine
        self._capture = capture
        self._max_pending = max_pending
        self._poll_seconds = poll_seconds
        self._clock = clock
        self._budgets = Budgets()
        self._complaints = Complaints(clock)
        self._context = contextvars.copy_context()
        self._pending: dict[str, Pending] = {}
        self._poll: asyncio.TimerHandle | None = None
        self._stopped = False

    def offer(self, job: Job) -> Pending | None:
        """Begin a copy; None if there is no room for it. Neither waits nor raises."""
        begun: Pending | Cause
        try:
            self.ledger.offered(job)
            begun = self._begin(job)
        except Exception as error:  # noqa: BLE001 - this is a user's task
            self._complaints.about("Beginning a shadow", error)
            begun = "failed"
        if isinstance(begun, Pending):
            return begun
        self._shed(job, begun)
        return None

    @property
    def pending(self) -> int:
        """Copies in memory."""
        return len(self._pending)

    def pressure(self) -> None:
        """Users are waiting: end what runs in the engine now."""
        for pending in list(self._pending.values()):
            if pending.in_engine:
                pending.cancel("busy")

    async def start(self) -> None:
        """Take offers, as from the first; so it can be started and stopped with the server."""
        self._stopped = False

    async def stop(self) -> None:
        """Begin nothing more, end what is pending, and wait until it has ended."""
        self._stopped = True
        if self._poll is not None:
            self._poll.cancel()
        tasks = [pending.task for pending in self._pending.values() if pending.task is not None]
        for pending in self._pending.values():
            pending.cancel("stopped")
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_SECONDS)

    def _begin(self, job: Job) -> Pending | Cause:
        if (cause := self._unfit()) is not None:
            return cause
        if len(self._pending) >= self._max_pending:
            return "budget_pending"
        if job.request_id in self._pending:
            msg = "a request that is being copied was offered again"
            raise ValueError(msg)
        loop = asyncio.get_running_loop()
        pending = Pending(job, loop.create_future())
        if job.shadow.mode != "score" and (cause := self._admit(pending)) is not None:
            return cause
        pending.task = loop.create_task(self._follow(pending), context=self._context.copy())
        self._pending[job.request_id] = pending
        # Also called if the task is cancelled before its first step, where no `finally` would be.
        pending.task.add_done_callback(lambda task: self._ended(pending, task))
        return pending

    async def _follow(self, pending: Pending) -> None:
        """One copy: generate, wait for the user's answer, compare, score."""
        job = pending.job
        shadow = None if job.shadow.mode == "score" else await self._generate(pending)
        user = await pending.user()
        if shadow is not None:
            pair = await compare_aside(user, shadow, wants_json=job.wants_json)
            self.ledger.compared(job, pair)
            if job.span is not None:
                job.span.compared(matched=pair.exact)
            if self._capture is not None:
                self._capture.keep(job, user, shadow, pair)
        if job.shadow.mode != "generate" and user.token_ids:
            await self._score(pending, user)

    async def _generate(self, pending: Pending) -> Answer:
        """The candidate's answer; the budget has let it through already."""
        async with _within(pending):
            answer = await self._engine.generate(pending.job)
        pending.leave(answer.output_tokens)
        return answer

    async def _score(self, pending: Pending, user: Answer) -> None:
        """How likely the candidate, and who served, find the user's answer."""
        job = pending.job
        cause = self._unfit() or self._admit(pending, tokens=2.0 * len(user.token_ids))
        if cause is not None:
            raise _Shed(cause)
        async with _within(pending):
            candidate = await self._engine.score(job, job.candidate, user)
            served = await self._engine.score(job, job.decision.version, user)
        pending.leave()
        found = likelihood(served, candidate)
        self.ledger.scored(job, found)
        if job.span is not None:
            job.span.scored(found.divergence)

    def _unfit(self) -> Cause | None:
        """Why nothing may begin now, or None."""
        if self._stopped:
            return "stopped"
        return "busy" if self._engine.busy() else None

    def _admit(self, pending: Pending, tokens: float | None = None) -> Cause | None:
        """Let work of a copy into the engine, within its prompt's budget."""
        job, now = pending.job, self._clock()
        budget = self._budgets.of(job.decision.version.prompt, job.shadow, now)
        reserved = budget.start(now, tokens)
        if isinstance(reserved, str):
            return reserved
        pending.enter(budget, reserved)
        self._watch()
        return None

    def _watch(self) -> None:
        """Look in a while whether users wait."""
        if self._poll is None and not self._stopped:
            loop = asyncio.get_running_loop()
            self._poll = loop.call_later(self._poll_seconds, self._look, context=self._context)

    def _look(self) -> None:
        self._poll = None
        try:
            busy = self._engine.busy()
        except Exception as error:  # noqa: BLE001 - whoever can't be asked may have users waiting
            self._complaints.about("Asking whether users wait", error)
            busy = True
        if busy:
            self.pressure()
        if any(pending.in_engine for pending in self._pending.values()):
            self._watch()

    def _ended(self, pending: Pending, task: asyncio.Task[None]) -> None:
        """Count how a copy ended, if it came to nothing, and forget it."""
        pending.leave()
        del self._pending[pending.job.request_id]
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or (error is not None and pending.cause is not None):
            self._shed(pending.job, pending.cause or "stopped")
        elif isinstance(error, _Shed):
            self._shed(pending.job, error.cause)
        elif error is not None:
            self._complaints.about("A shadow", error)
            self._shed(pending.job, "failed")
        elif pending.job.span is not None:
            pending.job.span.end("done")

    def _shed(self, job: Job, cause: Cause) -> None:
        try:
            self.ledger.shed(job, cause)
        except Exception as error:  # noqa: BLE001 - a user's task may be who counts
            self._complaints.about("Counting a shadow", error)
        if job.span is not None:
            job.span.end(cause)


class _Shed(Exception):
    """The copy ends here."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause)
        self.cause: Cause = cause


@asynccontextmanager
async def _within(pending: Pending) -> AsyncIterator[None]:
    """Time for work in the engine. However that takes its end, it was ended."""
    limit = asyncio.timeout(pending.job.shadow.timeout_seconds)
    try:
        async with limit:
            yield
    except Exception:
        if not limit.expired():
            raise
    cause = "timeout" if limit.expired() else pending.cause
    if cause is not None:
        raise _Shed(cause)
