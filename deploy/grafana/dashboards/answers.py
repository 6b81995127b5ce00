"""What Prometheus answers to a dashboard over a span of time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dashboards.asked import Asked, named, queries

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpx


@dataclass(frozen=True)
class Span:
    """From ``start`` to ``end`` (Unix time) in steps of ``step`` seconds; scraped every ``every``."""

    start: float
    end: float
    step: float
    every: float

    def variables(self) -> dict[str, str]:
        """Grafana's own variables, as it works them out."""
        return {
            "__range": f"{self.end - self.start:.0f}s",
            "__interval": f"{self.step:.0f}s",
            "__rate_interval": f"{max(self.step + self.every, 4 * self.every):.0f}s",
        }


@dataclass(frozen=True)
class Series:
    """One line: its name, its labels, and a value (maybe NaN) for each of its times."""

    name: str
    labels: Mapping[str, str]
    times: list[float]
    values: list[float]


class Answers:
    """Asks a Prometheus the queries of one dashboard.

    Args:
        http: a client whose base is Prometheus' own.
        board: the dashboard's JSON; its variables are ``All``.
        span: which time.
    """

    def __init__(self, http: httpx.Client, board: Mapping[str, Any], span: Span) -> None:
        self._http = http
        self._span = span
        self._asked = list(queries(board, span.variables()))

    def panel(self, panel: Mapping[str, Any]) -> list[list[Series]]:
        """Series of each query of a panel."""
        return [self._ask(asked) for asked in self._asked if asked.panel is panel]

    def marks(self, name: str) -> list[float]:
        """When an annotation was seen."""
        asked = [asked for asked in self._asked if _is_mark(asked, name)]
        return [time for mark in asked for series in self._ask(mark) for time in series.times]

    def _ask(self, asked: Asked) -> list[Series]:
        span = self._span
        if asked.instant:
            given = {"query": asked.expr, "time": span.end}
            result = self._get("/api/v1/query", given)
            return [_series(found, asked.legend, [found["value"]]) for found in result]
        given = {"query": asked.expr, "start": span.start, "end": span.end, "step": span.step}
        result = self._get("/api/v1/query_range", given)
        return [_series(found, asked.legend, found["values"]) for found in result]

    def _get(self, path: str, given: Mapping[str, Any]) -> list[Any]:
        answer = self._http.get(path, params=given)
        answer.raise_for_status()
        result: list[Any] = answer.json()["data"]["result"]
        return result


def _is_mark(asked: Asked, name: str) -> bool:
    return asked.kind == "annotation" and asked.where == name


def _series(found: Mapping[str, Any], legend: str, values: list[Any]) -> Series:
    return Series(
        name=named(legend, found["metric"]),
        labels=found["metric"],
        times=[float(time) for time, _ in values],
        values=[float(value) if value != "+Inf" else math.nan for _, value in values],
    )


def stretches(line: Series, step: float) -> list[tuple[float, float, float]]:
    """From when to when it had one value."""
    found: list[tuple[float, float, float]] = []
    for time, value in zip(line.times, line.values, strict=True):
        if found and found[-1][2] == value:
            found[-1] = (found[-1][0], time + step, value)
        else:
            found.append((time, time + step, value))
    return found
