"""Plots as SVG text: a forest of differences, a cumulative distribution, a training curve. Pure.

Colours and fonts are classes, which the page's style sheet gives a look in light, dark and print;
lines also differ in their dashes and points in their shape. A plot has
a title and a description for those who can't see it; the numbers are in a table beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

from softprompt_serve.release.plot_frame import (
    WIDTH,
    Frame,
    Line,
    Words,
    decades,
    legend,
    padded,
    scale,
    short,
    svg,
    ticks,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LABEL, _NUMBERS = 210, 216
_ROW, _HEAD, _FOOT = 22, 14, 42
_LETTERS: Final = 34
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


def forest(words: Words, spans: Sequence[Span], *, tick: Callable[[float], str]) -> str:
    """Points with intervals about a line at 0, a row each; ``tick`` writes an axis value."""
    values = [edge for s in spans if s.value is not None for edge in (s.low, s.high, s.limit or 0)]
    low, high = padded(min(values, default=0.0), max(values, default=0.0))
    x = scale(low, high, _LABEL, WIDTH - _NUMBERS)
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
    return svg(words, bottom + _FOOT, parts)


def _span(span: Span, y: float, x: Callable[[float], float]) -> str:
    if span.value is None:
        return f'<text class="head" x="0" y="{y + 4:.1f}">{escape(short(span.label, 60))}</text>'
    size = 6.0 if span.strong else 4.5
    parts = [f'<text class="{"strong" if span.strong else "label"}" x="12" y="{y + 4:.1f}">']
    parts.append(f"{escape(short(span.label, _LETTERS))}</text>")
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
    marks = decades(low, high) if logarithmic else ticks(0.0, high, 6)
    frame = Frame(low if logarithmic else 0.0, high, 0.0, 1.0, height=230, logarithmic=logarithmic)
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
    parts.append(legend(lines))
    return svg(words, frame.height, parts)


def curve(words: Words, lines: Sequence[Line], *, axis: str = "step") -> str:
    """Figures of a training run over its steps; each line has points ``(step, value)``."""
    points = [point for line in lines for point in line.points]
    xs, ys = [x for x, _ in points] or [0.0], [y for _, y in points] or [0.0]
    low, high = padded(min(ys), max(ys), zero=False)
    frame = Frame(min(xs), max(xs), low, high, height=210)
    parts = [
        *frame.grid(ticks(min(xs), max(xs), 6), axis, lambda x: f"{x:g}"),
        *frame.levels(ticks(low, high, 4), lambda y: f"{y:.4g}"),
    ]
    parts += [frame.path(line) for line in lines]
    parts.append(legend(lines))
    return svg(words, frame.height, parts)


def _cumulative(values: Sequence[float]) -> list[tuple[float, float]]:
    """``(value, share at or below it)``, thinned evenly by rank; the last is always there."""
    ranked = sorted(value for value in values if value > 0)
    every = max(1, math.ceil(len(ranked) / _MOST_POINTS))
    ranks = [*range(every - 1, len(ranked), every)]
    if ranked and (not ranks or ranks[-1] != len(ranked) - 1):
        ranks.append(len(ranked) - 1)
    return [(ranked[rank], (rank + 1) / len(ranked)) for rank in ranks]
