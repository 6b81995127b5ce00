"""One copy on its way: what the user's task tells it, and what it has in the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    from softprompt_serve.shadow.budget import Budget
    from softprompt_serve.shadow.types import Answer, Cause, Job


class Pending:
    """A copy, from the user's first token until it was compared, scored or shed.

    Attributes:
        job: what is copied.
        task: the copy's own.
        cause: why it was ended from outside, or None.
    """

    __slots__ = ("_budget", "_reserved", "_user", "cause", "job", "task")

    def __init__(self, job: Job, user: asyncio.Future[Answer]) -> None:
        self.job = job
        self.task: asyncio.Task[None] | None = None
        self.cause: Cause | None = None
        self._user = user
        self._budget: Budget | None = None
        self._reserved = 0.0

    def answered(self, answer: Answer) -> None:
        """The user's answer is complete. Neither waits nor raises."""
        if not self._user.done():
            self._user.set_result(answer)

    def dropped(self) -> None:
        """The user's answer failed or was cancelled; after :meth:`answered` it means nothing."""
        if not self._user.done():
            self.cancel("user_ended")

    def cancel(self, cause: Cause) -> None:
        """End the copy now, and count it so unless something has ended it before."""
        if self.task is not None and self.cause is None and self.task.cancel():
            self.cause = cause

    async def user(self) -> Answer:
        """The user's answer, when it is complete."""
        return await self._user

    @property
    def in_engine(self) -> bool:
        """Whether it has work there now."""
        return self._budget is not None

    def enter(self, budget: Budget, reserved: float) -> None:
        """It has work in the engine from now on, within a budget."""
        self._budget, self._reserved = budget, reserved

    def leave(self, used: float | None = None) -> None:
        """That work is over; ``used`` are its tokens, if known. Without work, nothing happens."""
        budget, self._budget = self._budget, None
        if budget is not None:
            budget.end(self._reserved, used)
