"""The page that lists the metrics lists those that there are."""

from __future__ import annotations

import re
from pathlib import Path

from measured import Measured

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
ROW = re.compile(r"^\| `(softprompt_\w+)` \| (\w+) \|(.*?)\| (.+?) \| (.+?) \|$", re.MULTILINE)
REQUEST = "{request}"
SUFFIXES = {"counter": "_total", "histogram": "", "gauge": ""}


def documented() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Type and labels of each metric of the page."""
    groups = {
        name: tuple(re.findall(r"`(\w+)`", labels))
        for name, labels in re.findall(r"^\*(\w+)\*: (.*?)\.$", PAGE, re.MULTILINE)
    }
    found = {}
    for name, kind, labels, _, _ in ROW.findall(PAGE):
        given: list[str] = []
        for group, label in re.findall(r"\*(\w+)\*|`(\w+)`", labels):
            given += groups[group] if group else [label]
        found[name] = (kind, tuple(given))
    return found


def existing() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Those of the registry."""
    collectors = Measured().registry._collector_to_names
    return {
        f"{metric._name}{SUFFIXES[metric._type]}": (metric._type, metric._labelnames)
        for metric in collectors
    }


def test_every_metric_is_documented_with_its_type_and_labels() -> None:
    assert documented() == existing()


def test_units_are_those_in_the_names() -> None:
    units = {
        "s": "_seconds",
        "USD": "_usd",
        "tokens": "_tokens_total",
        "nats/token": "_nats",
        "rows": "_rows",
        "bytes": "_bytes",
        "0 to 1": "_ratio",
    }
    for name, _, _, unit, _ in ROW.findall(PAGE):
        suffixes = {said for said, suffix in units.items() if suffix in name}
        assert unit in (suffixes or {"1"}), name


def test_the_bounds_that_are_told_are_those_that_there_are() -> None:
    told = {name: int(count) for count, name in re.findall(r"\| (\d+) \| `(softprompt_\w+)`", PAGE)}
    kinds = {metric._name: metric for metric in Measured().registry._collector_to_names}
    for name, count in told.items():
        assert len(kinds[name]._kwargs["buckets"]) == count, name
    assert len(told) >= 5
