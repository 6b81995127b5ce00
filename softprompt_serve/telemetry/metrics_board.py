"""A gauge that shows a whole table: what is in it no more is set to 0."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prometheus_client import Counter, Gauge


class Board:
    """Owner of one gauge's series. They are never removed, which several processes can't do.

    Args:
        gauge: the gauge, with labels.
        limit: how many series there may be.
        collapsed: counts each row that gets none.
    """

    def __init__(self, gauge: Gauge, limit: int, collapsed: Counter) -> None:
        self._gauge = gauge
        self._limit = limit
        self._collapsed = collapsed
        self._series: dict[tuple[str, ...], Gauge] = {}
        self._shown: dict[tuple[str, ...], float] = {}

    def show(self, table: Mapping[tuple[str, ...], float]) -> None:
        """Show these values by their labels, and nothing else."""
        gone = dict.fromkeys(self._series.keys() - table.keys(), 0.0)
        for labels, value in {**gone, **table}.items():
            if self._shown.get(labels) == value:
                continue
            if (series := self._series.get(labels)) is None:
                if len(self._series) >= self._limit:
                    self._collapsed.inc()
                    continue
                series = self._series[labels] = self._gauge.labels(*labels)
            series.set(value)
            self._shown[labels] = value
