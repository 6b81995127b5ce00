"""Pure functions that score answers to the demo's tickets."""

from __future__ import annotations

import math
import string
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

Z_95: Final = 1.959963984540054
"""The standard normal's 97.5 % quantile: 95 % between minus and plus."""


@dataclass(frozen=True, slots=True)
class Score:
    """Right answers of one model on one split."""

    right: int
    total: int

    @property
    def accuracy(self) -> float:
        """The share of right answers; 0.0 for an empty split."""
        return self.right / self.total if self.total else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of the accuracy."""
        return wilson(self.right, self.total)

    def cell(self) -> str:
        """``accuracy (low-high)`` in percent, for tables."""
        low, high = self.interval
        return f"{self.accuracy:.1%} ({100 * low:.0f}-{100 * high:.0f})"


def is_right(answer: str, label: str) -> bool:
    """Whether an answer is the label alone, whatever its case and surrounding punctuation."""
    return answer.strip(string.whitespace + string.punctuation).casefold() == label


def score(pairs: Iterable[tuple[str, str]]) -> Score:
    """Count the right ones of ``(answer, label)`` pairs."""
    verdicts = [is_right(answer, label) for answer, label in pairs]
    return Score(sum(verdicts), len(verdicts))


def wilson(right: int, total: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927), within [0, 1].

    Args:
        right: successes, ``0 <= right <= total``.
        total: trials; with none the interval is all of [0, 1].
        z: normal quantile of the wanted coverage.
    """
    if not total:
        return 0.0, 1.0
    share, spread = right / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def markdown(header: list[str], rows: Iterable[list[str]]) -> str:
    """A markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
