"""A bounded sample of pairs with their texts: only made if content capture is switched on.

It lives in this process's memory alone, is neither written nor logged, and ends with the process.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, Final

from softprompt_serve.router.split import hash64

if TYPE_CHECKING:
    from softprompt_serve.shadow.compare import Comparison
    from softprompt_serve.shadow.types import Answer, Job

SAMPLE_CHARS: Final = 4_000
"""Of each text, and of the arguments of each tool call."""

SAMPLE_CALLS: Final = 20
"""Tool calls of each answer."""

MAX_PROMPTS: Final = 200
"""Prompts whose pairs are kept: those that had one last."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What a user got and what the shadow would have said, both cut to a bound.

    Attributes:
        served: the version that answered the user.
        candidate: the version that answered the copy.
    """

    request_id: str
    cohort: str
    route: str
    served: str
    candidate: str
    user: Answer
    shadow: Answer
    comparison: Comparison


@dataclass(slots=True)
class _Sample:
    """The pairs of one epoch with the smallest hashes, as a heap of the negative hashes."""

    epoch: int
    kept: list[tuple[int, int, Pair]] = field(default_factory=list)


class Capture:
    """Up to ``pairs`` pairs of each prompt, drawn evenly from all of the current epoch.

    Kept are those whose request ids hash to the smallest numbers: a uniform sample without
    replacement, in one pass (E. Cohen, H. Kaplan, "Summarizing data using bottom-k sketches",
    PODC 2007).
    """

    def __init__(self, pairs: int) -> None:
        self.pairs = pairs
        self._samples: OrderedDict[str, _Sample] = OrderedDict()
        self._order = count()

    def keep(self, job: Job, user: Answer, shadow: Answer, comparison: Comparison) -> None:
        """Draw a pair, or not."""
        decision = job.decision
        prompt, epoch = decision.version.prompt, decision.epoch
        sample = self._samples.get(prompt)
        if sample is None or sample.epoch < epoch:
            sample = self._samples[prompt] = _Sample(epoch)
        elif sample.epoch > epoch:
            return
        self._samples.move_to_end(prompt)
        if len(self._samples) > MAX_PROMPTS:
            self._samples.popitem(last=False)
        # Another hash than the one that drew the request for its shadow.
        drawn = -hash64(f"capture {job.request_id}")
        if len(sample.kept) == self.pairs and drawn <= sample.kept[0][0]:
            return
        pair = Pair(
            request_id=job.request_id,
            cohort=decision.cohort,
            route=decision.route,
            served=decision.version.version,
            candidate=job.candidate.version,
            user=_cut(user),
            shadow=_cut(shadow),
            comparison=comparison,
        )
        heapq.heappush(sample.kept, (drawn, next(self._order), pair))
        if len(sample.kept) > self.pairs:
            heapq.heappop(sample.kept)

    def of(self, prompt: str, epoch: int) -> list[Pair]:
        """What is kept of a prompt's epoch, the latest first."""
        sample = self._samples.get(prompt)
        if sample is None or sample.epoch != epoch:
            return []
        return [pair for _, _, pair in sorted(sample.kept, key=lambda kept: kept[1], reverse=True)]


def _cut(answer: Answer) -> Answer:
    """An answer within bounds; its token ids would be its text again."""
    calls = answer.tool_calls[:SAMPLE_CALLS]
    return replace(
        answer,
        text=answer.text[:SAMPLE_CHARS],
        token_ids=(),
        tool_calls=tuple((name[:SAMPLE_CHARS], args[:SAMPLE_CHARS]) for name, args in calls),
    )
