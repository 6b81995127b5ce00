"""What the tests of shadows share: jobs, answers, and an engine that does as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from router.catalogues import version

from softprompt_serve.registry.snapshot import Version
from softprompt_serve.rollout.spec import Shadow
from softprompt_serve.router.choose import Decision
from softprompt_serve.shadow.types import Answer, Job


def answer(text: str = "Hello", **changes: Any) -> Answer:
    tokens = tuple(range(len(text.split())))
    given: dict[str, Any] = {
        "text": text,
        "token_ids": tokens,
        "finish_reason": "stop",
        "ttft_seconds": 0.25,
        "e2e_seconds": 1.0,
        "output_tokens": len(tokens),
    }
    return Answer(**(given | changes))


def job(
    request_id: str = "r1",
    *,
    prompt: str = "support",
    cohort: str = "default",
    epoch: int = 3,
    candidate: str = "v2",
    wants_json: bool = False,
    **shadow: Any,
) -> Job:
    decision = Decision(
        version("v1", prompt), "split", "v1", epoch, epoch=epoch, cohort=cohort, route="default"
    )
    spec = Shadow(**({"version": candidate, "sample": 1.0} | shadow))
    return Job(request_id, decision, version(candidate, prompt), spec, wants_json, source=None)


async def hang(job: Job) -> Answer:
    """What a shadow that never ends does."""
    await asyncio.Event().wait()
    raise AssertionError


class FakeEngine:
    """A ``ShadowEngine``.

    Attributes:
        users_wait: what ``busy`` says.
        entered: request ids that ``generate`` was called with, in order.
        scored: request id and version of each call of ``score``.
        cancelled: those whose call was cancelled.
        most: how many calls there were at once, at most.
        generating, scoring: what the calls do.
    """

    def __init__(self) -> None:
        self.users_wait = False
        self.entered: list[str] = []
        self.scored: list[tuple[str, str]] = []
        self.cancelled: list[str] = []
        self.most = self.now = 0
        self.generating: Callable[[Job], Awaitable[Answer]] = self._at_once
        self.scoring: Callable[[Job], Awaitable[None]] = self._nothing
        self.logprobs = {"v1": -0.5, "v2": -0.75}

    async def generate(self, job: Job) -> Answer:
        self.entered.append(job.request_id)
        return await self._counted(job, self.generating(job))

    async def score(self, job: Job, version: Version, answer: Answer) -> tuple[float, ...]:
        self.scored.append((job.request_id, version.version))
        await self._counted(job, self.scoring(job))
        return tuple(self.logprobs[version.version] for _ in answer.token_ids)

    def busy(self) -> bool:
        return self.users_wait

    async def _counted(self, job: Job, work: Awaitable[Any]) -> Any:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await work
        except asyncio.CancelledError:
            self.cancelled.append(job.request_id)
            raise
        finally:
            self.now -= 1

    @staticmethod
    async def _at_once(job: Job) -> Answer:
        return answer()

    @staticmethod
    async def _nothing(job: Job) -> None:
        return None


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until something is so."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0)
