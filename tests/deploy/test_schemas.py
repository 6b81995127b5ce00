"""Every manifest of an outside controller is what its kind's definition takes.

The schemas hold the field names, types, bounds and required fields of the definitions as of Gateway
API 1.4, its Inference Extension 1.5 and 1.6, llm-d-router 0.10, Argo Rollouts 1.9 and Flagger 1.44.
Unknown fields are refused; of what the manifests don't use, only the type is there.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from deploy.manifests import Manifest, manifests
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

SCHEMAS = {
    path.stem: json.loads(path.read_text())
    for path in (Path(__file__).parent / "schemas").glob("*.json")
}
REGISTRY = Registry().with_resources(
    (f"{name}.json", Resource.from_contents(schema)) for name, schema in SCHEMAS.items()
)
FOLDERS = ("argo-rollouts", "flagger", "gateway-api")
ALL = [manifest for folder in FOLDERS for manifest in manifests(folder)]


def problems(manifest: dict[str, Any]) -> list[str]:
    name = f"{manifest['apiVersion'].replace('/', '-')}-{manifest['kind']}"
    found = Draft202012Validator(SCHEMAS[name], registry=REGISTRY).iter_errors(manifest)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


def changed(kind: str, path: str, value: Any) -> dict[str, Any]:
    """A copy of the first manifest of ``kind`` with ``value`` at ``path``; None removes it."""
    data = copy.deepcopy(next(m for m in ALL if m.kind == kind).data)
    *way, last = path.split(".")
    holder: Any = data
    for part in way:
        holder = holder[int(part) if part.isdigit() else part]
    if value is None:
        del holder[last]
    else:
        holder[last] = value
    return data


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_one(name: str) -> None:
    Draft202012Validator.check_schema(SCHEMAS[name])


@pytest.mark.parametrize("manifest", ALL, ids=str)
def test_a_manifest_is_what_its_kind_takes(manifest: Manifest) -> None:
    assert problems(manifest.data) == []


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("InferenceModelRewrite", "spec.poolRef", None),
        ("InferenceModelRewrite", "spec.rules.0.targets.0.weight", 0),
        ("InferenceModelRewrite", "spec.rules.0.matches.0.model.type", "Prefix"),
        ("InferenceModelRewrite", "spec.rules.0.split", []),
        ("InferencePool", "spec.endpointPickerRef.port", None),
        ("HTTPRoute", "spec.rules.0.matches.0.path.type", "Prefix"),
        ("AnalysisTemplate", "spec.metrics.0.provider", {"web": {}, "job": {}}),
        ("AnalysisTemplate", "spec.metrics.0.successConditions", "true"),
        ("AnalysisTemplate", "spec.metrics.0.provider.job.spec.template.spec.restart", "Never"),
        ("Rollout", "spec.strategy.canary.steps.0.setWeight", 10),
        ("Rollout", "spec.strategy.canary.steps.0.analysis.template", "softprompt-weights"),
        ("Canary", "spec.analysis.webhooks.0.type", "confirm"),
        ("Canary", "spec.analysis.webhooks.0.headers", {"authorization": "Bearer x"}),
        ("Canary", "spec.analysis.threshold", None),
        ("Canary", "spec.provider", "gatewayapi"),
        ("MetricTemplate", "spec.provider.type", "prom"),
        ("Deployment", "spec.selector", None),
        ("ConfigMap", "data.number", 1),
    ],
)
def test_what_a_kind_does_not_take_is_found(kind: str, path: str, value: Any) -> None:
    assert problems(changed(kind, path, value))


def test_both_homes_of_the_model_rewrite_take_the_same() -> None:
    one, other = (SCHEMAS[name]["properties"]["spec"] for name in SCHEMAS if "ModelRew" in name)
    assert one == other
