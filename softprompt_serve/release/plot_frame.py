"""What plots are made of: scales, axes, lines and the frame that is read aloud. Pure.

Every text is escaped here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

WIDTH: Final = 760
_STEPS: Final = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Line:
    """A series: its name, its class (``candidate``, ``baseline``, ``base`` or ``other``), points."""

    name: str
    look: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Words:
    """What is said of a plot: its id in the page, title and description."""

    id: str
    title: str
    description: str


class Frame:
    """Axes of a plot that has two: where values go, and their grid."""

    left, right, top = 52, WIDTH - 12, 26

    def __init__(
        self,
        low: float,
        high: float,
        least: float,
        most: float,
        *,
        height: int,
        logarithmic: bool = False,
    ) -> None:
        self.height, self.bottom = height, height - 38
        self.x = scale(low, high, self.left, self.right, logarithmic=logarithmic)
        self.y = scale(least, most, self.bottom, self.top)

    def grid(self, at: Iterable[float], name: str, tick: Callable[[float], str]) -> list[str]:
        """Vertical lines at values of x, which ``tick`` writes; ``name`` is the axis's."""
        parts = [
            f'<line class="grid" x1="{self.x(t):.1f}" x2="{self.x(t):.1f}" y1="{self.top}" '
            f'y2="{self.bottom}"/><text class="tick" x="{self.x(t):.1f}" y="{self.bottom + 16}" '
            f'text-anchor="middle">{escape(tick(t))}</text>'
            for t in at
        ]
        parts.append(
            f'<text class="axis" x="{self.right}" y="{self.bottom + 33}" text-anchor="end">'
            f"{escape(name)}</text>"
        )
        return parts

    def levels(self, at: Iterable[float], tick: Callable[[float], str]) -> list[str]:
        """Horizontal lines at values of y, which ``tick`` writes."""
        return [
            f'<line class="grid" x1="{self.left}" x2="{self.right}" y1="{self.y(t):.1f}" '
            f'y2="{self.y(t):.1f}"/><text class="tick" x="{self.left - 6}" '
            f'y="{self.y(t) + 4:.1f}" text-anchor="end">{escape(tick(t))}</text>'
            for t in at
        ]

    def path(self, line: Line) -> str:
        """A line from point to point."""
        if not line.points:
            return ""
        (first, *rest) = [(self.x(x), self.y(y)) for x, y in line.points]
        drawn = f"M{first[0]:.1f} {first[1]:.1f}" + "".join(f"L{x:.1f} {y:.1f}" for x, y in rest)
        return f'<path class="line {line.look}" d="{drawn}"/>'

    def stairs(self, line: Line) -> str:
        """As :meth:`path`, but level until the next point."""
        if not line.points:
            return ""
        drawn = f"M{self.x(line.points[0][0]):.1f} {self.bottom}" + "".join(
            f"H{self.x(x):.1f}V{self.y(y):.1f}" for x, y in line.points
        )
        return f'<path class="line {line.look}" d="{drawn}H{self.right}"/>'


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers between two, some ``about`` many; the one number there is if they are equal."""
    if high <= low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * s for s in _STEPS if power * s >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    # Twelve digits, so that 3 * 0.1 reads 0.3.
    return [float(f"{n * step:.12g}") for n in range(first, last + 1)]


def decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between two positive numbers."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = [float(f"{10.0**p * digit:.12g}") for p in powers for digit in (1, 2, 5)]
    return [mark for mark in marks if low <= mark <= high]


def padded(low: float, high: float, *, zero: bool = True) -> tuple[float, float]:
    """A little more than the range, which has 0 in it if ``zero``."""
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    room = (high - low) * 0.06 or max(abs(high), 1.0) * 0.05
    return low - room, high + room


def scale(
    low: float, high: float, start: float, end: float, *, logarithmic: bool = False
) -> Callable[[float], float]:
    """From a value to a coordinate; one value alone lies in the middle."""
    given = math.log if logarithmic else float
    first, last = given(low), given(high)
    width = last - first

    def place(value: float) -> float:
        if not width:
            return (start + end) / 2.0
        return start + (given(value) - first) / width * (end - start)

    return place


def legend(lines: Sequence[Line]) -> str:
    """Which line is whose, above the frame."""
    parts, x = [], 52.0
    for line in lines:
        name = short(line.name, 28)
        parts.append(f'<path class="line {line.look}" d="M{x:.0f} 12h26"/>')
        parts.append(f'<text class="label" x="{x + 32:.0f}" y="16">{escape(name)}</text>')
        x += 56 + 6.6 * len(name)
    return "".join(parts)


def short(text: str, letters: int) -> str:
    """A text on one line, cut to ``letters``; not escaped yet."""
    flat = " ".join(text.split())
    return flat if len(flat) <= letters else flat[: letters - 1] + "…"


def svg(words: Words, height: float, parts: Iterable[str]) -> str:
    """The whole plot, with what is read aloud of it."""
    name = escape(words.id)
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(words.title)}</title>'
        f'<desc id="{name}-desc">{escape(words.description)}</desc>{"".join(parts)}</svg>'
    )
