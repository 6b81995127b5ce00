"""What is known of a turn, and of all turns of a variant. Pure."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Answer:
    """One request as its caller saw it.

    Attributes:
        first: seconds to the first token.
        gaps: seconds between each token and the next.
        sent, received: bytes of the bodies; 0 in process.
    """

    first: float
    gaps: tuple[float, ...] = ()
    sent: int = 0
    received: int = 0

    @classmethod
    def at(cls, begun: float, moments: Sequence[float], sent: int = 0, received: int = 0) -> Answer:
        """From the moments at which tokens came.

        Raises:
            ValueError: none came.
        """
        if not moments:
            msg = "An answer without a token can't be timed."
            raise ValueError(msg)
        gaps = tuple(b - a for a, b in pairwise(moments))
        return cls(moments[0] - begun, gaps, sent, received)


@dataclass(frozen=True, slots=True)
class Turn:
    """One variant in one round.

    Attributes:
        answers: to all requests.
        seconds: that all took together.
        tokens: asked for by all together.
        processor: seconds of processor time that whoever answered used; in process the caller's, too.
    """

    answers: tuple[Answer, ...]
    seconds: float
    tokens: int
    processor: float

    @property
    def rate(self) -> float:
        """Generated tokens per second."""
        return self.tokens / self.seconds

    @property
    def first(self) -> float:
        """The median of seconds to the first token."""
        return statistics.median(answer.first for answer in self.answers)


@dataclass(frozen=True, slots=True)
class Summary:
    """A variant over all rounds.

    Attributes:
        rate: median over rounds of generated tokens per second.
        firsts, gaps: 50th and 99th percentile in seconds, of all requests and of all gaps.
        sent, received: bytes per request.
        processor: seconds of processor time per request, the median over rounds.
        requests: how many the percentiles are of.
    """

    rate: float
    firsts: tuple[float, float]
    gaps: tuple[float, float]
    sent: float
    received: float
    processor: float
    requests: int


def percentile(values: Sequence[float], share: float) -> float:
    """The value that a ``share`` of them is at or below, between neighbours in proportion.

    The definition is R's type 7, which NumPy takes unless told otherwise. 0 of no values.
    """
    ranked = sorted(values)
    if not ranked:
        return 0.0
    place = share * (len(ranked) - 1)
    below = int(place)
    above = min(below + 1, len(ranked) - 1)
    return ranked[below] + (ranked[above] - ranked[below]) * (place - below)


def summary(turns: Sequence[Turn]) -> Summary:
    """All rounds of a variant in one."""
    answers = [answer for turn in turns for answer in turn.answers]
    firsts = [answer.first for answer in answers]
    gaps = [gap for answer in answers for gap in answer.gaps]
    return Summary(
        rate=statistics.median(turn.rate for turn in turns),
        firsts=(percentile(firsts, 0.5), percentile(firsts, 0.99)),
        gaps=(percentile(gaps, 0.5), percentile(gaps, 0.99)),
        sent=statistics.fmean(answer.sent for answer in answers),
        received=statistics.fmean(answer.received for answer in answers),
        processor=statistics.median(turn.processor / len(turn.answers) for turn in turns),
        requests=len(answers),
    )


def rates(turns: Sequence[Turn], to: Sequence[Turn]) -> list[float]:
    """Tokens per second as a ratio to another variant's in the same round."""
    return [turn.rate / other.rate for turn, other in zip(turns, to, strict=True)]


def waits(turns: Sequence[Turn], to: Sequence[Turn]) -> list[float]:
    """The median time to the first token as a ratio to another variant's in the same round."""
    return [turn.first / other.first for turn, other in zip(turns, to, strict=True)]


def work(turns: Sequence[Turn], to: Sequence[Turn]) -> list[float]:
    """Processor time as a ratio to another variant's in the same round."""
    return [turn.processor / other.processor for turn, other in zip(turns, to, strict=True)]
