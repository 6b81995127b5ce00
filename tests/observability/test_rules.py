"""Rules and configuration, held against the real promtool."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from observability.prometheus import RULES, binary
from observability.queries import rules

ROOT = Path(__file__).parents[2]
TESTS = sorted((RULES / "tests").glob("*.yaml"))
ALERTS = [rule for rule in rules() if rule.alert]
RECORDS = [rule for rule in rules() if not rule.alert]


def promtool(*arguments: str) -> str:
    done = subprocess.run(
        [binary("promtool"), *arguments], capture_output=True, text=True, check=False, cwd=RULES
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def cases(kind: str) -> list[dict[str, object]]:
    return [
        case
        for path in TESTS
        for test in yaml.safe_load(path.read_text())["tests"]
        for case in test.get(kind, ())
    ]


def test_the_configuration_and_its_rules_are_valid() -> None:
    assert "2 rule files found" in promtool("check", "config", "prometheus.yml")


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_rules_do_what_their_tests_say(path: Path) -> None:
    assert "SUCCESS" in promtool("test", "rules", str(path))


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_is_shown_to_fire_and_to_be_silent(alert: object) -> None:
    shown = [
        bool(case["exp_alerts"])
        for case in cases("alert_rule_test")
        if case["alertname"] == alert.name
    ]
    assert set(shown) == {True, False}


@pytest.mark.parametrize("rule", RECORDS, ids=lambda rule: rule.name)
def test_a_recording_rule_is_shown_to_have_a_value(rule: object) -> None:
    values = [
        case["exp_samples"]
        for case in cases("promql_expr_test")
        if rule.name in re.findall(r"[\w:]+", str(case["expr"]))
    ]
    assert any(values)


@pytest.mark.parametrize("rule", RECORDS, ids=lambda rule: rule.name)
def test_a_recording_rule_is_named_by_level_metric_and_operations(rule: object) -> None:
    assert re.fullmatch(r"[a-z_]+:softprompt_[a-z_]+:[a-z0-9_]+", rule.name)
    level = rule.name.partition(":")[0].split("_")
    by = re.search(r"sum by \(([^)]*)\)", rule.expr)
    assert by is not None
    assert set(level) == set(by[1].split(", ")) - {"job", "le"}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_says_what_is_wrong_how_bad_it_is_and_what_to_do(alert: object) -> None:
    assert alert.labels["severity"] in {"critical", "warning"}
    assert alert.annotations.keys() == {"summary", "description", "runbook_url"}
    page, _, anchor = alert.annotations["runbook_url"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor in {heading.lower() for heading in headings}


def test_the_runbook_has_no_alert_that_is_gone() -> None:
    page = (ROOT / "docs" / "runbook.md").read_text()
    headings = set(re.findall(r"^## (Softprompt\w+)$", page, re.MULTILINE))
    assert headings == {alert.name for alert in ALERTS}
