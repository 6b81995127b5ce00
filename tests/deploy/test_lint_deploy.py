"""What `make lint` says of deploy/: nothing as it is, and the reason where something is wrong."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import lint_deploy
import prometheus_rule
import pytest
import rendered
import yaml
from deploy.facts import DEPLOY

COLLECTOR = yaml.safe_load((DEPLOY / "otel-collector" / "collector.yaml").read_text())


@pytest.mark.parametrize(
    ("name", "check"), lint_deploy.CHECKS, ids=[n for n, _ in lint_deploy.CHECKS]
)
def test_nothing_is_wrong(name: str, check: Any) -> None:
    assert list(check()) == []


def test_what_is_wrong_is_said_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert lint_deploy.run([("one", list), ("two", lambda: ["file: reason"])]) == 1
    said = capsys.readouterr()
    assert "one: ok" in said.out
    assert "two: FAILED" in said.out
    assert "file: reason" in said.err


def test_a_tool_that_is_not_there_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendered, "packaged", lambda *_: None)
    assert lint_deploy.run([("it", lambda: lint_deploy.kubernetes("cpu"))]) == 1


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("exporters", "debug"), {}, "debug is defined and not used"),
        (("service", "pipelines", "traces", "exporters"), ["otlp"], "otlp is used and not defined"),
        (("service", "pipelines", "traces", "exporters"), [], "no exporters"),
        (("service", "pipelines", "traces", "processors"), ["batch"], "not its first processor"),
        (("service", "pipelines", "spans"), {}, "not a signal"),
        (("processor",), {}, "unknown section processor"),
    ],
)
def test_a_collector_that_would_not_start_is_found(
    path: tuple[str, ...], value: Any, reason: str
) -> None:
    config = copy.deepcopy(COLLECTOR)
    holder = config
    for part in path[:-1]:
        holder = holder[part]
    holder[path[-1]] = value
    assert any(reason in problem for problem in lint_deploy.collector_problems(config))


def changed(tmp_path: Path, file: str, old: str, new: str) -> Path:
    """A copy of the manifests with one text replaced."""
    shutil.copytree(rendered.MANIFESTS, tmp_path / "kubernetes")
    path = tmp_path / "kubernetes" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    return tmp_path / "kubernetes"


@pytest.mark.parametrize(
    ("file", "old", "new", "kind"),
    [
        ("base/deployment.yaml", "maxSurge: 1", "maxSurges: 1", "Deployment"),
        ("base/deployment.yaml", "port: http}", "ports: http}", "Deployment"),
        ("base/service.yaml", "port: 8000", "port: http", "Service"),
        ("base/migrate.yaml", "backoffLimit: 6", "backoffLimit: six", "Job"),
        ("base/networkpolicy.yaml", "podSelector: {}", "pods: {}", "NetworkPolicy"),
        ("base/poddisruptionbudget.yaml", "maxUnavailable", "unavailable", "PodDisruptionBudget"),
        ("components/monitoring/servicemonitor.yaml", "15s", "15 s", "ServiceMonitor"),
        ("components/gateway/httproute.yaml", "Exact", "Same", "HTTPRoute"),
        (
            "components/autoscaling/horizontalpodautoscaler.yaml",
            "maxReplicas: 8",
            "maximum: 8",
            "HorizontalPodAutoscaler",
        ),
    ],
)
def test_what_a_kind_does_not_take_is_found(
    tmp_path: Path, file: str, old: str, new: str, kind: str
) -> None:
    things = rendered.render("cuda", changed(tmp_path, file, old, new))
    found = [problem for thing in things for problem in rendered.problems(thing)]
    assert found
    assert all(problem.startswith(f"{kind}/") for problem in found)


def test_a_kind_without_a_definition_is_found() -> None:
    thing = {"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "it"}}
    assert "Thing/it" in next(rendered.problems(thing))


def test_an_overlay_that_can_t_be_built_is_said_with_its_reason(tmp_path: Path) -> None:
    manifests = changed(tmp_path, "base/kustomization.yaml", "service.yaml", "services.yaml")
    with pytest.raises(rendered.RenderError, match=r"services\.yaml"):
        rendered.render("cpu", manifests)


def test_secrets_of_whoever_lints_are_not_read(tmp_path: Path) -> None:
    manifests = changed(tmp_path, "base/service.yaml", "8000", "8000")
    (manifests / "components" / "secrets" / "admin.env").write_text("token=my-own-secret\n")
    text = str(rendered.render("cpu", manifests))
    assert "bXktb3duLXNlY3JldA==" not in text


def test_rules_that_were_changed_must_be_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = tmp_path / "prometheusrule.yaml"
    monkeypatch.setattr(prometheus_rule, "WRITTEN", written)
    assert not prometheus_rule.current()
    written.write_text(prometheus_rule.text())
    assert prometheus_rule.current()
    assert yaml.safe_load(written.read_text()) == prometheus_rule.rule()
