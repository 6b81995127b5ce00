"""A picture of a sheet: every variant's ratios as dots with their ranges, in two panels. Pure.

It stands alone as a file, so that its colours are in it. The ranges are the least and the most of
all rounds; the numbers are in the table beside it.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

from softprompt_serve.release.plot_frame import WIDTH, Words, scale, svg

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STYLE: Final = (
    "<style>text{font:12px system-ui,sans-serif;fill:#222}.group,.panel{font-weight:600}"
    ".tick{font-size:11px;fill:#555}.grid{stroke:#e4e4e4}.one{stroke:#777}"
    ".range{stroke:#2a6f97;stroke-width:1.5;fill:none}.dot{fill:#2a6f97}"
    ".ours .range{stroke:#c8553d}.ours .dot{fill:#c8553d}.ours text{font-weight:600}</style>"
)
_LABEL, _GAP, _NUMBER = 236, 18, 46
_ROW, _HEAD, _FOOT = 18, 30, 26
_MARKS: Final = tuple(
    digit * 10.0**power for power in range(-3, 4) for digit in (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
)
_MOST_MARKS: Final = 6
_NARROW: Final = (0.8, 1.25)
"""The least that an axis shows: noise must not look like a difference."""


@dataclass(frozen=True, slots=True)
class Row:
    """A variant of a case: ratios of every round in the left panel and in the right one."""

    group: str
    name: str
    left: tuple[float, ...]
    right: tuple[float, ...]
    ours: bool = False


def chart(words: Words, rows: Sequence[Row], *, left: str, right: str) -> str:
    """The file's text; ``left`` and ``right`` say what the panels show."""
    half = (WIDTH - _LABEL - _GAP) / 2
    groups = list(dict.fromkeys(row.group for row in rows))
    lines = len(rows) + (len(groups) if len(groups) > 1 else 0)
    bottom = _HEAD + _ROW * lines
    starts = (_LABEL, _LABEL + half + _GAP)
    panels = [
        _Panel(start, start + half - _NUMBER, [values for row in rows for values in _of(row, side)])
        for side, start in enumerate(starts)
    ]
    parts = [f'<rect width="{WIDTH}" height="{bottom + _FOOT}" fill="#fff"/>']
    for panel, name in zip(panels, (left, right), strict=True):
        parts += panel.frame(name, bottom)
    y, before = _HEAD + _ROW / 2, ""
    for row in rows:
        if row.group != before and len(groups) > 1:
            parts.append(f'<text class="group" x="4" y="{y + 4:.1f}">{escape(row.group)}</text>')
            y += _ROW
        before = row.group
        parts.append(f'<g class="{"ours" if row.ours else "other"}">')
        parts.append(f'<text x="14" y="{y + 4:.1f}">{escape(row.name)}</text>')
        parts += [panel.dot(_of(row, side), y) for side, panel in enumerate(panels)]
        parts.append("</g>")
        y += _ROW
    drawn = svg(words, bottom + _FOOT, [STYLE, *parts])
    return drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n"


def _of(row: Row, side: int) -> tuple[float, ...]:
    return row.right if side else row.left


class _Panel:
    """Ratios on a logarithmic axis, on which twice and half are equally far from 1."""

    def __init__(self, start: float, end: float, values: Sequence[float]) -> None:
        low, high = min(_NARROW[0], *values), max(_NARROW[1], *values)
        self._start, self._end = start, end
        self._x: Callable[[float], float] = scale(
            low / 1.03, high * 1.03, start, end, logarithmic=True
        )
        marks = [mark for mark in _MARKS if low <= mark <= high]
        while len(marks) > _MOST_MARKS:
            marks = [mark for mark in marks[::2] if mark != 1.0] + [1.0]
            marks.sort()
        self._marks = marks if len(marks) > 1 else [_NARROW[0], 1.0, _NARROW[1]]

    def frame(self, name: str, bottom: float) -> list[str]:
        """Grid, ticks and the title."""
        parts = [f'<text class="panel" x="{self._start:.1f}" y="16">{escape(name)}</text>']
        for mark in self._marks:
            x, look = self._x(mark), "one" if mark == 1.0 else "grid"
            parts.append(
                f'<line class="{look}" x1="{x:.1f}" x2="{x:.1f}" y1="{_HEAD - 6}" y2="{bottom}"/>'
                f'<text class="tick" x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{mark:g}'
                "</text>"
            )
        return parts

    def dot(self, values: Sequence[float], y: float) -> str:
        """The median, from the least to the most, and the median as a number."""
        low, middle, high = min(values), statistics.median(values), max(values)
        return (
            f'<path class="range" d="M{self._x(low):.1f} {y:.1f}H{self._x(high):.1f}"/>'
            f'<circle class="dot" cx="{self._x(middle):.1f}" cy="{y:.1f}" r="4"/>'
            f'<text x="{self._end + _NUMBER - 4:.1f}" y="{y + 4:.1f}" text-anchor="end">'
            f"{middle:.2f}</text>"
        )
