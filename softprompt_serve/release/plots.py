"""Plots as SVG text: a forest of differences, a cumulative distribution, a training curve. Pure.

Colours and fonts are classes, which the page's style sheet gives a look in light, dark and print;
lines also differ in their dashes and points in their shape. Every text is escaped here. A plot has
a title and a description for those who can't see it; the numbers are in a table beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

WIDTH: Final = 760
_LABEL, _NUMBERS = 210, 216
_ROW, _HEAD, _FOOT = 22, 14, 42
_LETTERS: Final = 34
_STEPS: Final = (1.0, 2.0, 2.5, 5.0, 10.0)
_WIDE_RANGE: Final = 12.0
"""From this ratio of the largest to the smallest time on, the axis is logarithmic."""
_MOST_POINTS: Final = 240
_FAR: Final = 4.0
"""A ceiling so many times above the slowest answer is not drawn: it would squash all else."""


@dataclass(frozen=True, slots=True)
class Span:
    """One row of a forest; a heading has no numbers.

    Attributes:
        label: at the left.
        numbers: at the right, as text.
        value, low, high: the point and its interval; a heading's are None.
        limit: the least that is asked of the value, or None.
        look: a class: ``better``, ``worse`` or ``open``.
        strong: drawn larger, as what sums up others.
    """

    label: str
    numbers: str = ""
    value: float | None = None
    low: float = 0.0
    high: float = 0.0
    limit: float | None = None
    look: str = "open"
    strong: bool = False


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


def forest(words: Words, spans: Sequence[Span], *, tick: Callable[[float], str]) -> str:
    """Points with intervals about a line at 0, a row each; ``tick`` writes an axis value."""
    values = [edge for s in spans if s.value is not None for edge in (s.low, s.high, s.limit or 0)]
    low, high = _padded(min(values, default=0.0), max(values, default=0.0))
    x = _scale(low, high, _LABEL, WIDTH - _NUMBERS)
    bottom = _HEAD + _ROW * len(spans)
    parts = [
        f'<line class="grid" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="{_HEAD}" y2="{bottom}"/>'
        f'<text class="tick" x="{x(t):.1f}" y="{bottom + 16}" text-anchor="middle">'
        f"{escape(tick(t))}</text>"
        for t in ticks(low, high, 5)
    ]
    parts.append(f'<line class="zero" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="4" y2="{bottom}"/>')
    parts += [_span(span, _HEAD + _ROW * i + _ROW / 2, x) for i, span in enumerate(spans)]
    middle = bottom + 34
    parts.append(
        f'<text class="axis" x="{x(0) - 8:.1f}" y="{middle}" text-anchor="end">← candidate worse'
        f'</text><text class="axis" x="{x(0) + 8:.1f}" y="{middle}">candidate better →</text>'
    )
    return _svg(words, bottom + _FOOT, parts)


def _span(span: Span, y: float, x: Callable[[float], float]) -> str:
    if span.value is None:
        return f'<text class="head" x="0" y="{y + 4:.1f}">{escape(_short(span.label, 60))}</text>'
    size = 6.0 if span.strong else 4.5
    parts = [f'<text class="{"strong" if span.strong else "label"}" x="12" y="{y + 4:.1f}">']
    parts.append(f"{escape(_short(span.label, _LETTERS))}</text>")
    if span.limit is not None:
        at = x(span.limit)
        parts.append(f'<line class="limit" x1="{at:.1f}" x2="{at:.1f}" ')
        parts.append(f'y1="{y - 9:.1f}" y2="{y + 9:.1f}"/>')
    left, right, at = x(span.low), x(span.high), x(span.value)
    parts.append(f'<g class="{span.look}"><path d="M{left:.1f} {y:.1f}H{right:.1f}')
    parts.append(f'M{left:.1f} {y - 4:.1f}v8M{right:.1f} {y - 4:.1f}v8"/>')
    parts.append(f"{_mark(span.look, at, y, size)}</g>")
    parts.append(f'<text class="number" x="{WIDTH}" y="{y + 4:.1f}" text-anchor="end">')
    parts.append(f"{escape(span.numbers)}</text>")
    return "".join(parts)


def _mark(look: str, x: float, y: float, r: float) -> str:
    """A filled circle is better, a filled diamond worse, an open circle undecided."""
    if look == "worse":
        return f'<path class="mark" d="M{x:.1f} {y - r:.1f}l{r} {r}l-{r} {r}l-{r} -{r}z"/>'
    hollow = " hollow" if look == "open" else ""
    return f'<circle class="mark{hollow}" cx="{x:.1f}" cy="{y:.1f}" r="{r}"/>'


def ecdf(
    words: Words, samples: Sequence[tuple[str, str, Sequence[float]]], *, limit: float | None = None
) -> str:
    """The share of answers that were complete within a time.

    Args:
        words: what is said of it.
        samples: name, class and positive seconds of each version.
        limit: a ceiling to draw, in seconds; not if it is far away.
    """
    everything = [value for _, _, values in samples for value in values if value > 0]
    if limit is not None and limit > _FAR * max(everything, default=0.0):
        limit = None
    if limit is not None:
        everything.append(limit)
    low, high = min(everything, default=0.0), max(everything, default=1.0)
    logarithmic = low > 0 and high / low > _WIDE_RANGE
    marks = _decades(low, high) if logarithmic else ticks(0.0, high, 6)
    frame = _Frame(low if logarithmic else 0.0, high, 0.0, 1.0, height=230, logarithmic=logarithmic)
    lines = [Line(name, look, tuple(_cumulative(values))) for name, look, values in samples]
    parts = [
        *frame.grid(marks, "seconds", lambda s: f"{s:g} s"),
        *frame.levels((0.0, 0.25, 0.5, 0.75, 0.95), lambda share: f"{share * 100:g} %"),
    ]
    if limit is not None:
        at = frame.x(limit)
        parts.append(
            f'<line class="limit" x1="{at:.1f}" x2="{at:.1f}" y1="{frame.top}" '
            f'y2="{frame.bottom}"/><text class="axis" x="{at - 6:.1f}" y="{frame.bottom - 8}" '
            f'text-anchor="end">p99 at most {limit:g} s</text>'
        )
    parts += [frame.stairs(line) for line in lines]
    parts.append(_legend(lines))
    return _svg(words, frame.height, parts)


def curve(words: Words, lines: Sequence[Line], *, axis: str = "step") -> str:
    """Figures of a training run over its steps; each line has points ``(step, value)``."""
    points = [point for line in lines for point in line.points]
    xs, ys = [x for x, _ in points] or [0.0], [y for _, y in points] or [0.0]
    low, high = _padded(min(ys), max(ys), zero=False)
    frame = _Frame(min(xs), max(xs), low, high, height=210)
    parts = [
        *frame.grid(ticks(min(xs), max(xs), 6), axis, lambda x: f"{x:g}"),
        *frame.levels(ticks(low, high, 4), lambda y: f"{y:.4g}"),
    ]
    parts += [frame.path(line) for line in lines]
    parts.append(_legend(lines))
    return _svg(words, frame.height, parts)


class _Frame:
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
        self.x = _scale(low, high, self.left, self.right, logarithmic=logarithmic)
        self.y = _scale(least, most, self.bottom, self.top)

    def grid(self, at: Iterable[float], name: str, tick: Callable[[float], str]) -> list[str]:
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
        return [
            f'<line class="grid" x1="{self.left}" x2="{self.right}" y1="{self.y(t):.1f}" '
            f'y2="{self.y(t):.1f}"/><text class="tick" x="{self.left - 6}" '
            f'y="{self.y(t) + 4:.1f}" text-anchor="end">{escape(tick(t))}</text>'
            for t in at
        ]

    def path(self, line: Line) -> str:
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


def _decades(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = [float(f"{10.0**p * digit:.12g}") for p in powers for digit in (1, 2, 5)]
    return [mark for mark in marks if low <= mark <= high]


def _cumulative(values: Sequence[float]) -> list[tuple[float, float]]:
    """``(value, share at or below it)``, thinned evenly by rank; the last is always there."""
    ranked = sorted(value for value in values if value > 0)
    every = max(1, math.ceil(len(ranked) / _MOST_POINTS))
    ranks = [*range(every - 1, len(ranked), every)]
    if ranked and (not ranks or ranks[-1] != len(ranked) - 1):
        ranks.append(len(ranked) - 1)
    return [(ranked[rank], (rank + 1) / len(ranked)) for rank in ranks]


def _padded(low: float, high: float, *, zero: bool = True) -> tuple[float, float]:
    """A little more than the range, which has 0 in it if ``zero``."""
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    room = (high - low) * 0.06 or max(abs(high), 1.0) * 0.05
    return low - room, high + room


def _scale(
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


def _legend(lines: Sequence[Line]) -> str:
    parts, x = [], 52.0
    for line in lines:
        name = _short(line.name, 28)
        parts.append(f'<path class="line {line.look}" d="M{x:.0f} 12h26"/>')
        parts.append(f'<text class="label" x="{x + 32:.0f}" y="16">{escape(name)}</text>')
        x += 56 + 6.6 * len(name)
    return "".join(parts)


def _short(text: str, letters: int) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= letters else flat[: letters - 1] + "…"


def _svg(words: Words, height: float, parts: Iterable[str]) -> str:
    name = escape(words.id)
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(words.title)}</title>'
        f'<desc id="{name}-desc">{escape(words.description)}</desc>{"".join(parts)}</svg>'
    )
