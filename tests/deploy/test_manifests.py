"""What the manifests say of us is so: paths, fields, commands, metrics, hooks and versions."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any, get_args

import pytest
import typer.main
from deploy.manifests import DEPLOY, Manifest, manifests
from prometheus_client import CollectorRegistry

from softprompt_serve.cli.app import app as cli
from softprompt_serve.rollout.cost import Prices
from softprompt_serve.rollout.spec import RolloutSpec
from softprompt_serve.router.choose import split_model
from softprompt_serve.server.hooks import Hook
from softprompt_serve.telemetry.labels import LABELS
from softprompt_serve.telemetry.metrics import Metrics
from softprompt_serve.testing import app_for_tests, service_for_tests

if TYPE_CHECKING:
    from collections.abc import Iterator

ARGO, FLAGGER, GATEWAY = manifests("argo-rollouts"), manifests("flagger"), manifests("gateway-api")
TEMPLATES = {m.name: m for m in ARGO if m.kind == "AnalysisTemplate"}
(ROLLOUT,) = (m for m in ARGO if m.kind == "Rollout")
(CANARY,) = (m for m in FLAGGER if m.kind == "Canary")
HOOKS = CANARY.spec["analysis"]["webhooks"]
PLACEHOLDER = re.compile(r"\{\{ ?args\.([a-z-]+) ?\}\}")


@pytest.fixture(scope="module")
def openapi(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Our API as it describes itself."""
    return app_for_tests(service_for_tests(tmp_path_factory.mktemp("server"))).openapi()


def calls() -> Iterator[tuple[str, str]]:
    """Method and address of every call that a manifest makes to us."""
    for manifest in ARGO + FLAGGER:
        for found in manifest.objects():
            if "url" in found:
                yield found.get("method", "GET") if "type" not in found else "POST", found["url"]
        for text in manifest.data.get("data", {}).values():
            if path := re.search(r"method: (\w+)\s+path: (\S+)", text):
                yield path[1], path[2]


def operation(openapi: dict[str, Any], method: str, url: str) -> dict[str, Any]:
    path = "/softprompts" + PLACEHOLDER.sub("support", url).partition("/softprompts")[2]
    (found,) = (
        methods
        for pattern, methods in openapi["paths"].items()
        if re.fullmatch(re.sub(r"\{[a-z]+\}", "[^/]+", pattern), path)
    )
    return dict(found[method.lower()])


def queries() -> list[str]:
    found = [o["query"] for m in ARGO + FLAGGER for o in m.objects() if "query" in o]
    assert len(found) == 5
    return found


def test_every_address_is_a_route_of_ours(openapi: dict[str, Any]) -> None:
    assert len([operation(openapi, *call) for call in calls()]) == 10


def test_what_is_read_from_an_answer_is_in_it(openapi: dict[str, Any]) -> None:
    for template in TEMPLATES.values():
        for web in (o["web"] for o in template.objects() if "web" in o):
            answer = operation(openapi, "GET", web["url"])["responses"]["200"]
            schema = answer["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
            field = re.fullmatch(r"\{\$\.([a-z_]+)\}", web["jsonPath"])
            assert field is not None
            assert field[1] in openapi["components"]["schemas"][schema]["properties"]


def parse(command: list[str]) -> str:
    """The command's name; fails as the command line would."""
    program, *rest = command
    assert program == "softprompt-serve"
    found: Any = typer.main.get_command(cli)
    name = program
    while hasattr(found, "commands"):
        name, *rest = rest
        found = found.commands[name]
    found.make_context(name, rest)
    return name


def test_every_command_is_one_of_ours() -> None:
    found = [
        PLACEHOLDER.sub("1", "\n".join(o["command"])).split("\n")
        for m in ARGO + FLAGGER
        for o in m.objects()
        if "command" in o and o["command"][0] != "sleep"
    ]
    assert [parse(command) for command in found] == ["weights", "promote"]


def test_a_command_that_is_not_ours_is_found() -> None:
    with pytest.raises(Exception, match="No such option: --until"):
        parse(["softprompt-serve", "rollout", "weights", "support", "v2=1", "--until", "60"])


def test_a_pod_that_runs_our_command_gets_no_variables_of_services() -> None:
    # A Service named softprompt-serve would give it SOFTPROMPT_SERVE_*, which no setting is.
    for template in TEMPLATES.values():
        for pod in (o for o in template.objects() if "containers" in o):
            assert pod["enableServiceLinks"] is False


def test_every_metric_and_label_is_one_of_ours() -> None:
    registry = CollectorRegistry()
    Metrics(registry, base_model="base", prices=Prices(), arms=1, build={})
    families = {f.name: f.type for f in registry.collect()}
    suffixes = {
        "counter": ("_total",),
        "gauge": ("",),
        "histogram": ("_bucket", "_sum", "_count"),
    }
    ours = {name + suffix for name, kind in families.items() for suffix in suffixes[kind]}
    for query in queries():
        assert set(re.findall(r"softprompt_[a-z_]+", query)) <= ours
        for selector in re.findall(r"\{\s*(prompt=.*?)\}\[", query):
            labels = re.findall(r'([a-z]+)!?="', selector)
            assert labels
            assert set(labels) <= set(LABELS)


def test_every_bracket_of_a_query_is_closed() -> None:
    for query in queries():
        assert all(query.count(a) == query.count(b) for a, b in ("()", "[]", "{}"))


def arguments_of(template: str) -> dict[str, Any]:
    return {a["name"]: a for a in TEMPLATES[template].spec["args"]}


def test_a_template_declares_the_arguments_that_it_uses() -> None:
    for template in TEMPLATES.values():
        used = set(PLACEHOLDER.findall(json.dumps(template.spec["metrics"])))
        assert used == set(arguments_of(template.name)), template.name


def test_the_limits_of_a_metric_fit_its_count() -> None:
    # As Argo Rollouts checks them: utils/analysis/factory.go, ValidateMetric.
    for metric in (m for t in TEMPLATES.values() for m in t.spec["metrics"]):
        count, failures = metric.get("count"), metric.get("failureLimit", 0)
        assert count is None or count >= failures + metric.get("consecutiveSuccessLimit", 0)
        assert count is None or count >= metric.get("inconclusiveLimit", 0)
        assert count is None or "interval" in metric


def test_an_analysis_in_a_step_ends() -> None:
    for analysis in analyses()[1:]:
        for template in (reference["templateName"] for reference in analysis["templates"]):
            for metric in TEMPLATES[template].spec["metrics"]:
                assert "count" in metric or "interval" not in metric


def analyses() -> list[dict[str, Any]]:
    canary = ROLLOUT.spec["strategy"]["canary"]
    return [canary["analysis"], *(step["analysis"] for step in canary["steps"])]


def test_the_rollout_gives_each_template_what_it_needs() -> None:
    for analysis in analyses():
        given = {argument["name"] for argument in analysis["args"]}
        known: set[str] = set()
        for template in (reference["templateName"] for reference in analysis["templates"]):
            arguments = arguments_of(template)
            known |= set(arguments)
            assert {n for n, a in arguments.items() if len(a) == 1} <= given
        assert given <= known


def test_templates_that_are_used_together_agree_on_their_defaults() -> None:
    for analysis in analyses():
        defaults: dict[str, Any] = {}
        for template in (reference["templateName"] for reference in analysis["templates"]):
            for name, argument in arguments_of(template).items():
                assert defaults.setdefault(name, argument) == argument


def test_the_rollout_walks_to_all_of_the_traffic() -> None:
    weights, last = [], analyses()[-1]
    for analysis in analyses():
        given = {argument["name"]: argument.get("value") for argument in analysis["args"]}
        if "candidate-weight" in given:
            share = int(given["candidate-weight"])
            assert share + int(given["production-weight"]) == 100
            weights.append(share)
    assert weights == [1, 10, 50]
    assert last["templates"] == [{"templateName": "softprompt-promote"}]


def test_what_the_rollouts_arguments_refer_to_is_there() -> None:
    for argument in (a for analysis in analyses() for a in analysis["args"] if "valueFrom" in a):
        found: Any = ROLLOUT.data
        way = re.split(
            r"\['|'\]|\.(?=[a-z]+(?:[.\[/]|$))", argument["valueFrom"]["fieldRef"]["fieldPath"]
        )
        for part in filter(None, way):
            found = found[part]
        assert found == {"prompt": "support", "candidate": "v4"}[argument["name"]]


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        ([], "inconclusive"),
        ([math.nan], "inconclusive"),
        ([0.0], "success"),
        ([0.02], "success"),
        ([0.3], "failure"),
    ],
)
def test_no_traffic_decides_nothing(result: list[float], outcome: str) -> None:
    def holds(condition: str) -> bool:
        text = condition.replace("&&", "and").replace("!isNaN", "not isNaN")
        text = PLACEHOLDER.sub("0.02", text)
        return bool(eval(text, {"result": result, "isNaN": math.isnan}))

    for metric in TEMPLATES["softprompt-metrics"].spec["metrics"]:
        success, failure = holds(metric["successCondition"]), holds(metric["failureCondition"])
        assert {(True, False): "success", (False, True): "failure"}.get(
            (success, failure), "inconclusive"
        ) == outcome


def test_an_aborted_rollout_is_told_to_the_hook_that_rolls_back() -> None:
    (notifications,) = (m for m in ARGO if m.kind == "ConfigMap")
    subscription = "notifications.argoproj.io/subscribe.on-rollout-aborted.softprompt"
    assert subscription in ROLLOUT.data["metadata"]["annotations"]
    data = notifications.data["data"]
    assert {"service.webhook.softprompt", "trigger.on-rollout-aborted"} <= set(data)
    body = data["template.softprompt-aborted"].partition("body: |")[2]
    filled = json.loads(re.sub(r"\{\{.*?\}\}", "x", body))
    assert filled == {
        "name": "x",
        "namespace": "x",
        "phase": "Failed",
        "metadata": {"prompt": "x", "version": "x"},
    }


def test_every_hook_is_called_where_its_type_says() -> None:
    assert {hook["url"].rpartition("/")[2] == hook["type"] for hook in HOOKS} == {True}
    types = [hook["type"] for hook in HOOKS]
    # Only asked for by a Canary that shifts traffic between pods.
    assert set(get_args(Hook)) - set(types) == {"confirm-traffic-increase"}
    assert len(types) == len(set(types))


def test_hooks_that_change_something_are_repeated() -> None:
    assert [hook["type"] for hook in HOOKS if hook.get("retries", 0) > 0] == ["post-rollout"]


def test_flaggers_objects_name_one_release() -> None:
    releases = [hook["metadata"] for hook in HOOKS]
    releases += [metric["templateVariables"] for metric in CANARY.spec["analysis"]["metrics"]]
    assert releases == [{"prompt": "support", "version": "v4"}] * len(releases)
    (marker,) = (m for m in FLAGGER if m.kind == "Deployment")
    assert CANARY.spec["targetRef"]["name"] == marker.name
    annotations = marker.spec["template"]["metadata"]["annotations"]
    assert annotations == {"softprompt/candidate": "v4"}


def test_flaggers_metrics_are_templates_that_exist() -> None:
    templates = {m.name: m.spec["query"] for m in FLAGGER if m.kind == "MetricTemplate"}
    for metric in CANARY.spec["analysis"]["metrics"]:
        query = templates[metric["templateRef"]["name"]]
        variables = set(re.findall(r"\{\{ variables\.([a-z]+) \}\}", query))
        assert variables == set(metric["templateVariables"])


def test_flaggers_rollout_is_a_document_of_ours() -> None:
    spec = RolloutSpec.model_validate_json((DEPLOY / "flagger" / "rollout.json").read_text())
    assert [step.weight for step in spec.steps] == [1, 10, 50]
    assert {arm.version for arm in spec.arms} == {"production", "v4"}


@pytest.mark.parametrize(
    "rewrite", [m for m in GATEWAY if m.kind == "InferenceModelRewrite"], ids=str
)
def test_the_gateway_rewrites_a_prompt_to_its_versions(rewrite: Manifest) -> None:
    (rule,) = rewrite.spec["rules"]
    (match,) = rule["matches"]
    assert match["model"] == {"type": "Exact", "value": "support"}
    targets = {split_model(t["modelRewrite"]): t["weight"] for t in rule["targets"]}
    assert targets == {("support", "v2"): 90, ("support", "v4"): 10}


def test_the_gateways_objects_name_one_pool() -> None:
    (pool,) = (m for m in GATEWAY if m.kind == "InferencePool")
    for reference in (o for m in GATEWAY for o in m.objects() if o.get("kind") == "InferencePool"):
        assert reference.get("name", pool.name) == pool.name


def test_all_of_ours_lies_in_one_namespace() -> None:
    for manifest in [*ARGO, *FLAGGER, *GATEWAY]:
        expected = "argo-rollouts" if manifest.kind == "ConfigMap" else "softprompt"
        assert manifest.data["metadata"]["namespace"] == expected
