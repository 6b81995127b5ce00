"""Draws a dashboard from Prometheus' answers, laid out as Grafana lays it out."""

from __future__ import annotations

import datetime as dt
import math
import re
from typing import TYPE_CHECKING, Any, Final

from matplotlib import ticker
from matplotlib.patches import Rectangle

from dashboards.answers import stretches
from dashboards.canvas import CELL, PALETTE, SOFT, Canvas
from dashboards.units import written

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from matplotlib.axes import Axes

    from dashboards.answers import Answers, Series, Span

DAY: Final = 86400.0
TICKS: Final = (60.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21600.0, 86400.0)
MOST_TICKS: Final = 6
LETTER: Final = 4.6  # pixels, about
LEGEND: Final = 6
"""Names of series below a panel; what there is beyond is counted."""


class Picture:
    """One dashboard on one figure.

    Args:
        board: its JSON.
        answers: what Prometheus says.
        span: which time is shown.
    """

    def __init__(self, board: Mapping[str, Any], answers: Answers, span: Span) -> None:
        self._board = board
        self._answers = answers
        self._span = span
        self._colours: dict[str, str] = {}
        rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
        self._canvas = Canvas(rows)
        self._marks = [
            (time, mark["iconColor"])
            for mark in board["annotations"]["list"]
            for time in answers.marks(mark["name"])
        ]

    def save(self, path: Path) -> None:
        """Draw everything and write a PNG of few colours."""
        self._canvas.text(16, 24, self._board["title"], size=14, weight="bold")
        self._canvas.text(16, 46, self._board["description"], size=8.5, color=SOFT)
        self._key()
        for panel in self._board["panels"]:
            if panel["type"] == "row":
                self._row(panel)
            else:
                self._panel(panel)
        self._canvas.save(path)

    def _key(self) -> None:
        """What the vertical lines are."""
        right = self._canvas.width - 16
        for mark in reversed(self._board["annotations"]["list"]):
            self._canvas.text(right, 26, mark["name"], size=8, color=SOFT, ha="right")
            right -= 6.2 * len(mark["name"]) + 8
            self._canvas.text(right, 26, "▲", size=7, color=mark["iconColor"], ha="center")
            right -= 18

    def _row(self, panel: Mapping[str, Any]) -> None:
        left, top, _, _ = self._canvas.place(panel)
        self._canvas.text(left + 2, top + 18, panel["title"], size=10.5, weight="bold")

    def _panel(self, panel: Mapping[str, Any]) -> None:
        left, top, width, height = self._canvas.place(panel)
        self._canvas.card(left, top, width, height)
        self._canvas.text(left + 10, top + 15, panel["title"], size=8.5, weight="bold")
        found = self._answers.panel(panel)
        if panel["type"] == "table":
            self._table(panel, found, (left, top, width, height))
            return
        series = [line for lines in found for line in lines]
        if panel["type"] == "stat":
            self._number(panel, series, (left, top, width, height))
            return
        beside = 92 if panel["type"] == "state-timeline" else 64
        tall = height - 48 - 13 * self._below(panel)
        axes = self._canvas.axes(left + beside, top + 30, width - beside - 16, tall)
        if panel["type"] == "state-timeline":
            self._states(axes, panel, series)
        else:
            self._chart(axes, panel, series)
            self._legend(panel, series, (left, top + height))

    def _below(self, panel: Mapping[str, Any]) -> float:
        """Lines of legend below a panel."""
        return 0.4 if panel["type"] == "state-timeline" else LEGEND / self._beside(panel) + 0.6

    def _beside(self, panel: Mapping[str, Any]) -> int:
        """Names in one line of a legend."""
        return int(max(2, panel["gridPos"]["w"] // 8))

    def _chart(self, axes: Axes, panel: Mapping[str, Any], series: list[Series]) -> None:
        custom = panel["fieldConfig"]["defaults"].get("custom", {})
        shown = [line for line in series if any(not math.isnan(v) for v in line.values)]
        if custom.get("drawStyle") == "bars":
            self._bars(axes, panel, shown)
        else:
            style = "steps-post" if custom.get("lineInterpolation") == "stepAfter" else "default"
            for line in shown:
                times, values = _gapped(line, self._span.step)
                colour = self._colour(line.name, panel)
                axes.plot(times, values, color=colour, lw=1.3, drawstyle=style)
        defaults = panel["fieldConfig"]["defaults"]
        unit = defaults["unit"]
        axes.yaxis.set_major_locator(ticker.MaxNLocator(4))
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: written(value, unit)))
        highest = max((v for line in shown for v in line.values if not math.isnan(v)), default=0.0)
        stacked = max(axes.get_ylim()[1], highest * 1.08)
        axes.set_ylim(0, defaults.get("max") or (stacked if highest else 1))
        self._time(axes)
        if not shown:
            axes.text(0.5, 0.5, "No data", transform=axes.transAxes, ha="center", color=SOFT)
        for time, colour in self._marks:
            axes.axvline(_day(time), color=colour, lw=0.8, ls=(0, (3, 2)), alpha=0.8)
            axes.plot([_day(time)], [0], marker="^", ms=3.5, color=colour, clip_on=False)

    def _bars(self, axes: Axes, panel: Mapping[str, Any], series: list[Series]) -> None:
        width = self._span.step / DAY
        below: dict[float, float] = {}
        for line in series:
            pairs = [(t, v) for t, v in zip(line.times, line.values, strict=True) if v > 0]
            bottoms = [below.get(time, 0.0) for time, _ in pairs]
            axes.bar(
                [_day(time) for time, _ in pairs],
                [value for _, value in pairs],
                width,
                bottoms,
                color=self._colour(line.name, panel),
            )
            for time, value in pairs:
                below[time] = below.get(time, 0.0) + value

    def _states(self, axes: Axes, panel: Mapping[str, Any], series: list[Series]) -> None:
        (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
        names = {float(value): found for value, found in mapping["options"].items()}
        for place, line in enumerate(series):
            for began, ended, value in stretches(line, self._span.step):
                found = names[value]
                left, right = _day(began), _day(ended)
                axes.add_patch(
                    Rectangle((left, place - 0.34), right - left, 0.68, color=found["color"], lw=0)
                )
                if ended - began > (self._span.end - self._span.start) / 9:
                    axes.text(
                        (left + right) / 2,
                        place,
                        found["text"],
                        ha="center",
                        va="center",
                        color="white",
                        weight="bold",
                        fontsize=8,
                    )
        axes.set_ylim(len(series) - 0.45, -0.55)
        axes.set_yticks(range(len(series)), [line.name for line in series], fontsize=6.5)
        self._time(axes)
        axes.grid(visible=False)

    def _number(
        self, panel: Mapping[str, Any], series: list[Series], box: tuple[float, ...]
    ) -> None:
        left, top, width, height = box
        axes = self._canvas.axes(left + 2, top + height * 0.62, width - 4, height * 0.38 - 2)
        axes.axis("off")
        axes.xaxis.set_major_locator(ticker.NullLocator())
        values = series[0].values if series else [math.nan]
        if series:
            times = [_day(time) for time in series[0].times]
            axes.fill_between(times, values, color=PALETTE[0], alpha=0.16, lw=0)
            axes.plot(times, values, color=PALETTE[0], lw=1)
            axes.set_ylim(0, max(values) * 1.1 or 1)
            axes.margins(x=0)
        unit = panel["fieldConfig"]["defaults"]["unit"]
        middle = (left + width / 2, top + height / 2)
        self._canvas.text(*middle, written(values[-1], unit), size=20, weight="bold", ha="center")

    def _table(
        self, panel: Mapping[str, Any], found: list[list[Series]], box: tuple[float, ...]
    ) -> None:
        left, top, width, _ = box
        units = {
            override["matcher"]["options"]: override["properties"][0]["value"]
            for override in panel["fieldConfig"]["overrides"]
        }
        keys = sorted(
            {(line.labels["prompt"], line.labels["version"]) for lines in found for line in lines}
        )
        names = ["Prompt", "Version", *units]
        step = (width - 24) / len(names)
        for column, name in enumerate(names):
            at = left + 14 + column * step
            self._canvas.text(at, top + 40, name, size=7.5, color=PALETTE[0], weight="bold")
            for row, key in enumerate(keys):
                text = key[column] if column < 2 else _cell(found[column - 2], key, units[name])  # noqa: PLR2004 - the key's two
                self._canvas.text(at, top + 64 + 22 * row, text, size=8.5)
        for row in range(len(keys)):
            self._canvas.rule(left + 10, top + 49 + 22 * row, width - 20)

    def _legend(
        self, panel: Mapping[str, Any], series: list[Series], corner: tuple[float, float]
    ) -> None:
        left, bottom = corner
        unit = panel["fieldConfig"]["defaults"]["unit"]
        beside = self._beside(panel)
        shown = series[:LEGEND] if len(series) <= LEGEND else series[: LEGEND - 1]
        width = (panel["gridPos"]["w"] * CELL[0] - 30) / beside
        lines = LEGEND / beside
        for place, line in enumerate(shown):
            x = left + 12 + (place % beside) * width
            y = bottom - 13 * (lines - place // beside) + 2
            self._canvas.text(
                x, y, "━", size=9, color=self._colour(line.name, panel), weight="bold"
            )
            room = int((width - 80) / LETTER)
            name = line.name if len(line.name) <= room else f"{line.name[: room - 1]}…"
            self._canvas.text(x + 16, y, name, size=7)
            last = next((v for v in reversed(line.values) if not math.isnan(v)), math.nan)
            self._canvas.text(
                x + width - 12, y, written(last, unit), size=7, color=SOFT, ha="right"
            )
        if len(shown) < len(series):
            place = len(shown)
            x = left + 12 + (place % beside) * width
            y = bottom - 13 * (lines - place // beside) + 2
            self._canvas.text(x + 16, y, f"and {len(series) - place} more", size=7, color=SOFT)

    def _colour(self, name: str, panel: Mapping[str, Any]) -> str:
        """Of a name, on all panels, unless this one says another."""
        for override in panel["fieldConfig"]["overrides"]:
            matcher = override["matcher"]
            if matcher["id"] == "byRegexp" and re.match(matcher["options"].strip("/"), name):
                fixed: str = override["properties"][0]["value"]["fixedColor"]
                return fixed
        if name not in self._colours:
            self._colours[name] = PALETTE[len(self._colours) % len(PALETTE)]
        return self._colours[name]

    def _time(self, axes: Axes) -> None:
        axes.set_xlim(_day(self._span.start), _day(self._span.end))
        seconds = self._span.end - self._span.start
        step = next((step for step in TICKS if seconds / step <= MOST_TICKS), TICKS[-1])
        first = math.ceil(self._span.start / step)
        ticks = [_day(number * step) for number in range(first, int(self._span.end // step) + 1)]
        axes.xaxis.set_major_locator(ticker.FixedLocator(ticks))
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(_clock))


def _day(time: float) -> float:
    """A time in days, as matplotlib counts it."""
    return time / DAY


def _clock(day: float, _: int | None = None) -> str:
    """Hours and minutes, UTC."""
    return dt.datetime.fromtimestamp(day * DAY, dt.UTC).strftime("%H:%M")


def _gapped(line: Series, step: float) -> tuple[list[float], list[float]]:
    """Times and values, with a NaN where a value is missing."""
    times: list[float] = []
    values: list[float] = []
    before = line.times[0]
    for time, value in zip(line.times, line.values, strict=True):
        if time - before > step * 1.5:
            times.append(_day(time - step))
            values.append(math.nan)
        times.append(_day(time))
        values.append(value)
        before = time
    return times, values


def _cell(lines: list[Series], key: tuple[str, str], unit: str) -> str:
    for line in lines:
        if (line.labels["prompt"], line.labels["version"]) == key:
            return written(line.values[-1], unit)
    return ""
