"""Remembers which version gave which answer, so that people can say something about it later.

A request's own task only adds to a dictionary. What has gathered is written by a thread, in one
transaction, a few times a second.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from softprompt_serve.server.background import Background
from softprompt_serve.telemetry.events import Answered, Dropped

if TYPE_CHECKING:
    from collections.abc import Callable

    from softprompt_serve.registry.answers import Answers
    from softprompt_serve.telemetry.events import RequestEvent

logger = logging.getLogger(__name__)

EVERY_SECONDS: Final = 0.5
ROOM: Final = 20_000


class Remembering:
    """A companion; a listener of requests.

    Args:
        answers: where they are kept.
        tell: who hears of answers that were lost.
        every_seconds: between two writes.
        room: how many may wait to be written; the oldest are lost then.
    """

    def __init__(
        self,
        answers: Answers,
        tell: Callable[[Dropped], None],
        every_seconds: float = EVERY_SECONDS,
        room: int = ROOM,
    ) -> None:
        self.answers = answers
        self.every_seconds = every_seconds
        self._tell = tell
        self._room = room
        self._waiting: dict[str, Answered] = {}
        self._failing = False
        self._writing = asyncio.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="softprompt-answers")
        self._task = Background("softprompt-answers")

    def __call__(self, event: RequestEvent) -> None:
        """Remember an answer whose id the client may have read."""
        if event.response_id and event.output_tokens:
            self._waiting[event.response_id] = _answered(event)
            self._make_room()

    async def start(self) -> None:
        """Begin to write; waits for nothing."""
        self._task.start(self._live())

    async def stop(self) -> None:
        """Write what has gathered, and end."""
        if await self._task.stop():
            await self.flush()
        self._thread.shutdown(wait=False)

    async def flush(self) -> None:
        """Write all that waits now; what can't be written waits on."""
        async with self._writing:
            taken, self._waiting = self._waiting, {}
            if not taken:
                return
            loop = asyncio.get_running_loop()
            try:
                await loop.run_in_executor(self._thread, self.answers.remember, taken.values())
            except Exception as error:  # noqa: BLE001 - requests go on, whatever went wrong
                self._waiting = {**taken, **self._waiting}
                self._make_room()
                self._note(f"{type(error).__name__}: {error}")
            else:
                self._note(None)

    async def _live(self) -> None:
        while True:
            await asyncio.sleep(self.every_seconds)
            await self.flush()

    def _make_room(self) -> None:
        lost = 0
        while len(self._waiting) > self._room:
            del self._waiting[next(iter(self._waiting))]
            lost += 1
        if lost:
            self._tell(Dropped("answer", "queue_full", lost))

    def _note(self, error: str | None) -> None:
        """Log each change of health once, not at each write."""
        if error is not None and not self._failing:
            logger.error("Answers can't be remembered for feedback now: %s", error)
        elif error is None and self._failing:
            logger.info("Answers are remembered for feedback again.")
        self._failing = error is not None


def _answered(event: RequestEvent) -> Answered:
    decision = event.decision
    version = decision.version
    return Answered(
        response_id=event.response_id,
        trace=event.trace,
        prompt=version.prompt,
        version=version.version,
        digest=version.digest,
        arm=decision.arm,
        cohort=decision.cohort,
        route=decision.route,
        generation=decision.generation,
        epoch=decision.epoch,
        compared=event.compared,
        at=event.started_at,
    )
