"""A run: every item to every version, side by side, scored as answers come."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from softprompt_serve.errors import SoftpromptError
from softprompt_serve.evaluation.evaluators.verdict import NoVerdict, checked
from softprompt_serve.release.evidence import Score

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from softprompt_serve.evaluation.asking import Endpoint
    from softprompt_serve.evaluation.dataset import Item
    from softprompt_serve.evaluation.evaluators import Evaluator
    from softprompt_serve.evaluation.replies import Reply, Target
    from softprompt_serve.evaluation.results import Results


def interleaved(items: Sequence[Item], targets: Sequence[Target]) -> Iterator[tuple[Item, Target]]:
    """The first item for all versions, then the second, and so on.

    So whatever changes in time (load, a warming cache) meets all versions alike. Who goes first
    rotates, so that nobody always meets the same neighbour.
    """
    for at, item in enumerate(items):
        first = at % len(targets)
        for target in (*targets[first:], *targets[:first]):
            yield item, target


@dataclass(frozen=True, slots=True)
class Runner:
    """Who asks and who scores.

    Attributes:
        evaluators: who scores.
        results: where findings go, and what is there already.
        endpoint: who answers.
    """

    evaluators: Sequence[Evaluator]
    results: Results
    endpoint: Endpoint

    async def run(
        self,
        items: Sequence[Item],
        targets: Sequence[Target],
        *,
        concurrency: int,
        advance: Callable[[], object] = lambda: None,
    ) -> None:
        """Ask and score what the results have not yet; then end them.

        Args:
            items: of the data set.
            targets: whom to ask.
            concurrency: how many answers are awaited at a time.
            advance: called after each item and version, those that were there included.

        Raises:
            SoftpromptError: the first that stops the run; what was found until then is kept.
        """
        todo = interleaved(items, targets)

        async def work() -> None:
            for item, target in todo:  # one iterator for all workers: each takes the next pair
                await self._one(item, target)
                advance()

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(work())
        except* SoftpromptError as failures:
            raise _first(failures) from None
        self.results.end()

    async def _one(self, item: Item, target: Target) -> None:
        results = self.results
        reply = results.replies.get((item.id, target.version))
        if reply is None:
            reply = await self.endpoint.ask(item, target, results.heading.sampling)
            results.add_reply(reply)
        if reply.answer.error is not None:
            return
        for evaluator in self.evaluators:
            key = (item.id, target.version, evaluator.name)
            if key not in results.scores and key not in results.unscored:
                await self._score(item, evaluator, reply)

    async def _score(self, item: Item, evaluator: Evaluator, reply: Reply) -> None:
        version = reply.answer.version
        try:
            verdict = checked(evaluator, await evaluator.score(item, reply))
        except NoVerdict as reason:
            self.results.add_unscored((item.id, version), evaluator.name, str(reason))
            return
        value, passed, note = verdict
        score = Score(item.id, version, item.cohort, evaluator.name, value, passed)
        self.results.add_score(score, note)


def _first(failures: BaseExceptionGroup[SoftpromptError]) -> SoftpromptError:
    found: BaseException = failures
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, SoftpromptError)  # noqa: S101 - what except* let in
    return found
