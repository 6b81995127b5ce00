"""The dashboards' JSON: current, complete, and about metrics that exist."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from dashboards.asked import panels
from dashboards.frame import VARIABLES
from dashboards.queries import STATES
from dashboards.write import FOLDER, stale
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from measured import TARIFF, Measured
from observability.queries import BOARDS, JSON, everything, rules

from softprompt_serve.telemetry.events import OperationName
from softprompt_serve.telemetry.rollout_metrics import STATES as EXISTING_STATES

SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
OF_PROMETHEUS = {"job", "instance", "le"}
SELECTED = re.compile(r"\b(softprompt_[a-z_]+)(?:\{([^}]*)\})?")
GROUPED = re.compile(r"\b(?:by|on|ignoring|group_left|group_right) \(([^)]*)\)")
MARKED = re.compile(r'operation=~"([^"]*)"')
LEGEND = re.compile(r"\{\{(\w+)\}\}")


def existing() -> dict[str, set[str]]:
    """Each series of the registry, with the labels that it can have."""
    return {
        f"{metric._name}{suffix}": {*metric._labelnames, *OF_PROMETHEUS}
        for metric in Measured(prices=TARIFF).registry._collector_to_names
        for suffix in SUFFIXES[metric._type]
    }


EXISTING = existing()
RECORDED = {rule.name for rule in rules() if not rule.alert}


def expressions() -> Iterator[tuple[str, str]]:
    for place, asked in everything():
        yield place, asked.expr
    for rule in rules():
        yield rule.name, rule.expr


def all_panels() -> list[Any]:
    found = [
        pytest.param(panel, id=f"{name}: {row}: {panel['title']}")
        for name, board in sorted(BOARDS.items())
        for row, panel in panels(board)
    ]
    assert len(found) > 50
    return found


def test_the_json_is_what_the_code_says() -> None:
    assert FOLDER == JSON
    assert stale() == []


@pytest.mark.parametrize(
    ("place", "expr"), [pytest.param(place, expr, id=place) for place, expr in expressions()]
)
def test_metrics_and_labels_of_a_query_exist(place: str, expr: str) -> None:
    check(expr)


@pytest.mark.parametrize(
    "expr",
    [
        "sum(softprompt_requests)",
        "softprompt_bank_used_rows_total",
        'softprompt_requests_total{verson="v3"}',
        "sum by (tenant) (softprompt_requests_total)",
        "prompt_version:softprompt_no_such_rule:rate5m",
    ],
)
def test_what_does_not_exist_is_found(expr: str) -> None:
    with pytest.raises(AssertionError):
        check(expr)


def check(expr: str) -> None:
    """Hold an expression against the registry, and against the recording rules."""
    told = re.sub(r"[a-z_]+:softprompt_\w+:\w+", lambda rule: _recorded(rule[0]), expr)
    named = SELECTED.findall(told)
    labels = {"role"} if "softprompt_rollout_arm_info" in told else set()
    for metric, selector in named:
        assert metric in EXISTING, metric
        labels |= EXISTING[metric]
        matched = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
        assert matched <= EXISTING[metric], f"{metric}: {matched - EXISTING[metric]}"
    grouped = {label for group in GROUPED.findall(told) for label in re.findall(r"\w+", group)}
    if named:
        assert grouped <= labels, grouped - labels


def _recorded(name: str) -> str:
    assert name in RECORDED, name
    return "recorded"


@pytest.mark.parametrize("panel", all_panels())
def test_a_panel_says_what_it_shows_and_in_which_unit(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    if panel["type"] == "table":
        units = {
            tuple(override["matcher"].values()) for override in panel["fieldConfig"]["overrides"]
        }
        assert len(units) == len(panel["targets"])
    elif panel["type"] == "state-timeline":
        (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
        assert len(mapping["options"]) >= 2
    else:
        assert panel["fieldConfig"]["defaults"]["unit"]


@pytest.mark.parametrize("panel", all_panels())
def test_a_legend_names_labels_that_the_query_has(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        for label in LEGEND.findall(target.get("legendFormat", "")):
            assert re.search(rf"\b{label}\b", target["expr"]) or label == "instance", label


@pytest.mark.parametrize("panel", all_panels())
def test_rates_are_over_grafanas_interval(panel: dict[str, Any]) -> None:
    over = {"$__range"} if panel["type"] == "table" else {"$__rate_interval"}
    for target in panel["targets"]:
        assert set(re.findall(r"\[(.+?)\]", target["expr"])) <= over


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_grafanas_schema_reads_every_panel(name: str) -> None:
    read = Dashboard.from_json(BOARDS[name])
    again = json.loads(json.dumps(read, cls=JSONEncoder))
    assert again["panels"] == BOARDS[name]["panels"]
    assert again["templating"] == BOARDS[name]["templating"]


def test_no_mean_of_divergence_is_shown() -> None:
    """What is below 0 is counted as 0, so that quantiles alone are right."""
    for _, expr in expressions():
        assert not re.search(r"divergence_nats_(sum|count)", expr)


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_panels_fill_the_grid_and_none_lies_on_another(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARDS[name]["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not taken & cells, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    rows = {y for _, y in taken}
    assert all((x, y) in taken for y in rows for x in range(24))


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_ids_are_of_one_panel_each(name: str) -> None:
    ids = [panel["id"] for panel in BOARDS[name]["panels"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_variables_narrow_each_other_and_all_is_anything(name: str) -> None:
    listed = {found["name"]: found for found in BOARDS[name]["templating"]["list"]}
    assert list(listed) == ["datasource", *VARIABLES]
    for variable in VARIABLES:
        assert listed[variable]["allValue"] == ".*"
        assert listed[variable]["includeAll"]
        assert listed[variable]["multi"]
    used = {variable for variable in VARIABLES if f'=~\\"${variable}\\"' in _text(name)}
    assert used == set(VARIABLES)


def _text(name: str) -> str:
    return (JSON / f"{name}.json").read_text()


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_promotions_and_rollbacks_are_marked(name: str) -> None:
    marks = {found["name"]: found for found in BOARDS[name]["annotations"]["list"]}
    assert 'operation=~"promote"' in marks["Promotions"]["expr"]
    assert 'operation=~"rollback"' in marks["Rollbacks"]["expr"]
    assert all(found["enable"] for found in marks.values())


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_every_operation_is_marked_once(name: str) -> None:
    marks = BOARDS[name]["annotations"]["list"]
    shown = [MARKED.findall(mark["expr"])[0].split("|") for mark in marks]
    assert sorted(chain.from_iterable(shown)) == sorted(get_args(OperationName))


def test_states_are_those_that_there_are() -> None:
    assert set(STATES) == set(EXISTING_STATES)


def test_an_exemplar_leads_to_its_trace_in_tempo() -> None:
    path = JSON.parent / "provisioning" / "datasources" / "softprompt.yaml"
    sources = {found["uid"]: found for found in yaml.safe_load(path.read_text())["datasources"]}
    (lead,) = sources["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert lead == {"name": "trace_id", "datasourceUid": "tempo"}
    assert sources["tempo"]["type"] == "tempo"
    shown = [target for _, panel in panels(BOARDS["versions"]) for target in panel["targets"]]
    assert sum(target["exemplar"] for target in shown) >= 9


def test_the_pictures_are_there_and_small() -> None:
    for name in BOARDS:
        picture = JSON.parents[2] / "docs" / "pictures" / f"dashboards-{name}.png"
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size < 300_000


def test_the_pictures_can_be_drawn_again(tmp_path: Path) -> None:
    script = JSON.parents[2] / "scripts" / "dashboard_pictures.py"
    command = [sys.executable, "-W", "error", str(script), "--into", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(script.parent)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {f"dashboards-{n}.png" for n in BOARDS}
