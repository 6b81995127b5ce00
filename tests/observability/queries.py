"""Every query of the dashboards and the rules, to be asked of a real Prometheus."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from dashboards.asked import Asked, queries
from observability.prometheus import RULES, Prometheus

JSON = Path(__file__).parents[2] / "deploy" / "grafana" / "json"
BOARDS: dict[str, Any] = {path.stem: json.loads(path.read_text()) for path in JSON.glob("*.json")}

INTERVALS = {"__rate_interval": "4s", "__interval": "1s", "__range": "60s"}
"""As Grafana works them out for a scrape every second."""


@dataclass(frozen=True)
class Rule:
    """A recording rule or an alert, and where it is."""

    name: str
    expr: str
    alert: bool
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


@dataclass
class Findings:
    """What became of the queries: errors by their place, and places that had no value."""

    asked: int
    errors: dict[str, str]
    empty: set[str]


def rules() -> Iterator[Rule]:
    for path in sorted((RULES / "rules").glob("*.yaml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                yield Rule(
                    name=rule.get("record") or rule["alert"],
                    expr=rule["expr"],
                    alert="alert" in rule,
                    labels=rule.get("labels", {}),
                    annotations=rule.get("annotations", {}),
                )


def everything(chosen: Mapping[str, str] | None = None) -> list[tuple[str, Asked]]:
    """Every query of every dashboard with its place; variables that aren't chosen are `All`."""
    given = INTERVALS | dict(chosen or {})
    return [
        (f"{name} / {asked.kind} / {asked.where}", asked)
        for name, board in sorted(BOARDS.items())
        for asked in queries(board, given)
    ]


def ask(
    prometheus: Prometheus, seconds: float, chosen: Mapping[str, str] | None = None
) -> Findings:
    """Ask everything, as Grafana would, of the last seconds."""
    found = Findings(0, {}, set())
    for place, asked in everything(chosen):
        found.asked += 1
        try:
            if not _valued(prometheus, asked, seconds):
                found.empty.add(place)
        except AssertionError as failure:
            found.errors[place] = str(failure)
    for rule in rules():
        found.asked += 1
        try:
            prometheus.query(rule.expr)
        except AssertionError as failure:
            found.errors[rule.name] = str(failure)
    return found


def _valued(prometheus: Prometheus, asked: Asked, seconds: float) -> bool:
    """Whether there was any value; NaN, as of 0 / 0, is none."""
    if asked.kind == "variable":
        return bool(prometheus.values(asked.expr, asked.legend))
    if asked.instant:
        values = [series["value"][1] for series in prometheus.query(asked.expr)]
    else:
        found = prometheus.range(asked.expr, seconds, 1.0)
        values = [value for series in found for _, value in series["values"]]
    return any(not math.isnan(float(value)) for value in values)
