"""How much one prompt's shadow may use: copies at once, and tokens per second. Pure.

Time is passed in, in seconds of a clock that never goes back, so each decision can be tested.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from softprompt_serve.rollout.spec import Shadow

BURST_SECONDS: Final = 1.0
"""A bucket holds what flows in during this time, or one token if that is less."""

FIRST_GUESS: Final = 256.0
"""Tokens that a copy is expected to generate before any has ended."""

_LEARNING: Final = 0.2
"""Weight of the newest copy in the mean of what copies generate."""

Refusal = Literal["budget_concurrency", "budget_tokens"]


@dataclass(slots=True)
class Bucket:
    """A token bucket that may go into debt, since what a copy costs is known when it has ended.

    Over any time t no more is taken than burst + rate * t, and the last one's amount on top.

    Attributes:
        rate: tokens per second that flow in.
        level: tokens that are there; below 0 is debt.
        at: when the level was that.
    """

    rate: float
    level: float
    at: float

    @classmethod
    def full(cls, rate: float, now: float) -> Bucket:
        """A bucket to the brim."""
        return cls(rate, _burst(rate), now)

    def open(self, now: float) -> bool:
        """Whether anything may be taken now."""
        if now > self.at:
            self.level = min(_burst(self.rate), self.level + (now - self.at) * self.rate)
            self.at = now
        return self.level > 0.0

    def take(self, amount: float) -> None:
        """Take what was spent; a negative amount gives back what was not."""
        self.level = min(_burst(self.rate), self.level - amount)


def _burst(rate: float) -> float:
    return max(1.0, rate * BURST_SECONDS)


@dataclass(slots=True)
class Budget:
    """What the shadow of one prompt has in use.

    Attributes:
        concurrency: copies that may be in the engine at once.
        running: those that are.
        expected: tokens that the next copy will probably generate.
    """

    bucket: Bucket
    concurrency: int
    running: int = 0
    expected: float = FIRST_GUESS

    def start(self, now: float, tokens: float | None = None) -> float | Refusal:
        """Begin work in the engine, of ``tokens`` or, if unknown, as many as such work had.

        Returns:
            The tokens that were reserved, for :meth:`end`; or why it may not begin.
        """
        if self.running >= self.concurrency:
            return "budget_concurrency"
        if not self.bucket.open(now):
            return "budget_tokens"
        reserved = self.expected if tokens is None else tokens
        self.bucket.take(reserved)
        self.running += 1
        return reserved

    def end(self, reserved: float, used: float | None = None) -> None:
        """The work is over; ``used`` if it said how many tokens that took, else as reserved."""
        self.running -= 1
        if used is not None:
            self.bucket.take(used - reserved)
            self.expected += (used - self.expected) * _LEARNING


@dataclass(slots=True)
class Budgets:
    """Each prompt's budget, by its name."""

    _found: dict[str, Budget] = field(default_factory=dict)

    def of(self, prompt: str, shadow: Shadow, now: float) -> Budget:
        """The prompt's budget within the limits that its shadow has now; debts outlive a change."""
        rate = shadow.max_tokens_per_second
        budget = self._found.get(prompt)
        if budget is None:
            budget = Budget(Bucket.full(rate, now), shadow.max_concurrency)
            self._found[prompt] = budget
        if budget.bucket.rate != rate:
            budget.bucket.open(now)  # what flowed in so far did so at the old rate
            budget.bucket.rate = rate
            budget.bucket.take(0.0)  # no more than the new one holds
        budget.concurrency = shadow.max_concurrency
        return budget
