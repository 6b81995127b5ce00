"""The Kubernetes manifests, as Kustomize renders them: what they say of us, and of each other, is so."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import typer.main
import yaml
from deploy.facts import DEPLOY, ROOT, serve_flags, unknown_variables, vllm_source
from rendered import OVERLAYS, render
from sqlalchemy.engine import make_url

from softprompt_serve import __version__
from softprompt_serve.artifact import Content
from softprompt_serve.cli.app import app as cli
from softprompt_serve.registry.catalog import Catalogue
from softprompt_serve.registry.database import Database
from softprompt_serve.settings import load_settings
from softprompt_serve.testing import app_for_tests, service_for_tests

if TYPE_CHECKING:
    from collections.abc import Iterator

    from postgres import Postgres

SERVER = "softprompt-serve"
ADAPTER = yaml.safe_load(
    (DEPLOY / "kubernetes" / "components" / "autoscaling" / "prometheus-adapter.yaml").read_text()
)


class Cluster(dict[tuple[str, str], dict[str, Any]]):
    """The objects of one overlay, by kind and name."""

    def __init__(self, overlay: str) -> None:
        super().__init__({(o["kind"], o["metadata"]["name"]): o for o in render(overlay)})

    def kind(self, kind: str) -> list[dict[str, Any]]:
        return [thing for (found, _), thing in self.items() if found == kind]

    def server(self) -> dict[str, Any]:
        """The template of the server's pods."""
        return dict(self["Deployment", SERVER]["spec"]["template"])

    def container(self) -> dict[str, Any]:
        (container,) = self.server()["spec"]["containers"]
        return dict(container)

    def pods(self) -> list[dict[str, Any]]:
        return [self.server(), self["Job", "softprompt-migrate"]["spec"]["template"]]

    def containers(self) -> Iterator[dict[str, Any]]:
        for pod in self.pods():
            yield from pod["spec"]["containers"] + pod["spec"].get("initContainers", [])

    def settings(self) -> dict[str, str]:
        """What the server's ConfigMap says."""
        (reference,) = self.container()["envFrom"]
        return dict(self["ConfigMap", reference["configMapRef"]["name"]]["data"])


@pytest.fixture(scope="module", params=OVERLAYS)
def cluster(request: pytest.FixtureRequest) -> Cluster:
    return Cluster(request.param)


@pytest.fixture(scope="module")
def cuda() -> Cluster:
    return Cluster("cuda")


@pytest.fixture(scope="module")
def openapi(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Our API as it describes itself."""
    app = app_for_tests(service_for_tests(tmp_path_factory.mktemp("server")))
    return dict(app.openapi()["paths"])


# --- the server


def test_the_flags_are_vllm_s(cluster: Cluster) -> None:
    parsed = serve_flags(cluster.container()["args"])
    assert parsed.model_tag
    assert parsed.port == 8000
    assert parsed.host == "0.0.0.0"


def test_every_variable_is_read_by_somebody(cluster: Cluster) -> None:
    names = {v["name"] for c in cluster.containers() for v in c.get("env", [])}
    assert unknown_variables(names | set(cluster.settings())) == set()


def test_the_settings_are_taken(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in cluster.settings().items():
        monkeypatch.setenv(name, value)
    for variable in cluster.container()["env"]:
        monkeypatch.setenv(variable["name"], "postgresql://a@b/c")
    settings = load_settings()
    assert settings.blob_url is not None
    assert settings.replica_name
    assert settings.database_url


def test_every_secret_that_is_needed_is_made(cluster: Cluster) -> None:
    secrets = {s["metadata"]["name"]: set(s["data"]) for s in cluster.kind("Secret")}
    wanted = [v["valueFrom"] for c in cluster.containers() for v in c["env"]]
    for reference in (found["secretKeyRef"] for found in wanted if "secretKeyRef" in found):
        if not reference.get("optional", False):
            assert reference["key"] in secrets[reference["name"]]


def test_no_secret_has_a_value_that_works(cluster: Cluster) -> None:
    for secret in cluster.kind("Secret"):
        for value in secret["data"].values():
            text = base64.b64decode(value).decode()
            assert text == "" or make_url(text).password == "PASSWORD"


def test_a_server_does_not_start_with_the_example_s_token(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = cluster["Secret", "softprompt-admin"]["data"]["token"]
    monkeypatch.setenv("SOFTPROMPT_ADMIN_TOKEN", base64.b64decode(token).decode())
    with pytest.raises(Exception, match="SOFTPROMPT_ADMIN_TOKEN"):
        load_settings()


def test_probes_ask_for_what_is_there(cluster: Cluster, openapi: dict[str, Any]) -> None:
    container = cluster.container()
    asked = {k: v["httpGet"] for k, v in container.items() if k.endswith("Probe")}
    assert {probe: get["path"].rpartition("/")[2] for probe, get in asked.items()} == {
        "startupProbe": "healthz",
        "readinessProbe": "readyz",
        "livenessProbe": "healthz",
    }
    assert all("get" in openapi[get["path"]] for get in asked.values())


def test_ports_agree(cluster: Cluster) -> None:
    (port,) = cluster.container()["ports"]
    assert port == {"name": "http", "containerPort": serve_flags(cluster.container()["args"]).port}
    (service,) = cluster["Service", SERVER]["spec"]["ports"]
    assert (service["port"], service["targetPort"]) == (8000, "http")
    assert f"{SERVER}.softprompt:8000" in (DEPLOY / "argo-rollouts" / "jobs.yaml").read_text()


def test_answers_may_end_before_the_pod_is_killed(cluster: Cluster) -> None:
    waits = cluster.container()["lifecycle"]["preStop"]["sleep"]["seconds"]
    drains = serve_flags(cluster.container()["args"]).shutdown_timeout
    closes = 2 * 10  # the service, then the spans: vllm_plugin/endpoint.py
    assert drains > 0
    assert waits + drains + closes < cluster.server()["spec"]["terminationGracePeriodSeconds"]


def test_whoever_applies_all_gets_one_release(cluster: Cluster) -> None:
    (image,) = {container["image"] for container in cluster.containers()}
    assert re.fullmatch(rf".+/softprompt-serve:{re.escape(__version__)}-(cuda|cpu)", image)


def test_all_of_ours_lies_in_one_namespace(cluster: Cluster) -> None:
    for (kind, name), thing in cluster.items():
        if kind != "Namespace":
            assert thing["metadata"]["namespace"] == "softprompt", name


# --- who may do what


def test_every_pod_is_restricted(cluster: Cluster) -> None:
    (space,) = cluster.kind("Namespace")
    assert space["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in cluster.pods():
        context = pod["spec"]["securityContext"]
        assert context["runAsNonRoot"]
        assert (
            f"USER {context['runAsUser']}:{context['runAsGroup']}"
            in (ROOT / "Dockerfile").read_text()
        )
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in cluster.containers():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_no_pod_gets_a_token_or_variables_of_services(cluster: Cluster) -> None:
    for pod in cluster.pods():
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["enableServiceLinks"] is False
        assert ("ServiceAccount", pod["spec"]["serviceAccountName"]) in cluster


def test_what_the_image_writes_to_can_be_written(cluster: Cluster) -> None:
    image = (ROOT / "Dockerfile").read_text()
    (home,) = re.findall(r"\bHOME=(/\S+) ", image)
    (data,) = re.findall(r"\bSOFTPROMPT_HOME=(/\S+)", image)
    mounts = {m["mountPath"]: m["name"] for m in cluster.container()["volumeMounts"]}
    assert {home, data, "/tmp"} <= set(mounts)
    volumes = {volume["name"] for volume in cluster.server()["spec"]["volumes"]}
    assert set(mounts.values()) == volumes


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def test_selectors_find_the_server_and_not_the_job(cluster: Cluster) -> None:
    server, job = (pod["metadata"]["labels"] for pod in cluster.pods())
    selectors = [
        cluster["Service", SERVER]["spec"]["selector"],
        cluster["Deployment", SERVER]["spec"]["selector"]["matchLabels"],
        cluster["PodDisruptionBudget", SERVER]["spec"]["selector"]["matchLabels"],
        cluster["NetworkPolicy", SERVER]["spec"]["podSelector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selects(selector, server)
        assert not selects(selector, job)


def test_the_gateway_s_pool_finds_the_server(cuda: Cluster) -> None:
    pool, _ = yaml.safe_load_all((DEPLOY / "gateway-api" / "inference-pool.yaml").read_text())
    assert selects(pool["spec"]["selector"]["matchLabels"], cuda.server()["metadata"]["labels"])


def test_only_named_namespaces_reach_the_server(cluster: Cluster) -> None:
    policy = cluster["NetworkPolicy", SERVER]["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    (rule,) = policy["ingress"]
    assert rule["ports"] == [{"port": "http"}]
    assert all(
        peer.get("namespaceSelector") != {} and "ipBlock" not in peer for peer in rule["from"]
    )
    text = str(rule["from"])
    assert all(
        name in text for name in ("gateway", "monitoring", "argo-rollouts", "flagger-system")
    )


def test_the_world_reaches_openai_s_api_and_feedback_alone(
    cuda: Cluster, openapi: dict[str, Any]
) -> None:
    (rule,) = cuda["HTTPRoute", SERVER]["spec"]["rules"]
    ours = []
    for match in rule["matches"]:
        if match["path"] == {"type": "PathPrefix", "value": "/v1"}:
            continue
        assert match["path"]["type"] == "Exact"
        assert match["method"].lower() in openapi[match["path"]["value"]]
        ours.append(match["path"]["value"].rpartition("/")[2])
    assert sorted(ours) == ["evaluations", "feedback"]
    (backend,) = rule["backendRefs"]
    assert backend == {"name": SERVER, "port": 8000}


def test_the_gateway_and_prometheus_come_from_namespaces_that_may(cuda: Cluster) -> None:
    (parent,) = cuda["HTTPRoute", SERVER]["spec"]["parentRefs"]
    allowed = str(cuda["NetworkPolicy", SERVER]["spec"]["ingress"])
    assert parent["namespace"] in allowed
    assert ADAPTER["prometheus"]["url"].rpartition(".")[2] in allowed


# --- migration


def test_commands_are_ours(cluster: Cluster) -> None:
    commands = [c["command"] for c in cluster.containers() if "command" in c]
    assert [command[:2] for command in commands] == [[SERVER, "migrate"]] * 2
    group: Any = typer.main.get_command(cli)
    for _, name, *arguments in commands:
        group.commands[name].make_context(name, list(arguments))


def test_servers_wait_for_the_migration_and_do_not_need_its_rights(cluster: Cluster) -> None:
    (init,) = cluster.server()["spec"]["initContainers"]
    assert "--check" in init["command"]
    keys = [
        c["env"][0]["valueFrom"]["secretKeyRef"]["key"]
        for c in cluster.containers()
        if "command" in c
    ]
    assert keys == ["url", "owner-url"]
    wait = float(init["command"][init["command"].index("--wait") + 1])
    assert wait >= cluster["Job", "softprompt-migrate"]["spec"]["activeDeadlineSeconds"]


GRANTS = re.search(r"```sql\n(.*?)```", (ROOT / "docs" / "deployment.md").read_text(), re.DOTALL)


def test_a_server_serves_with_the_rights_that_the_docs_give_it(
    postgres: Postgres, postgres_url: str
) -> None:
    assert GRANTS is not None
    database = make_url(postgres_url).database or ""
    statements = GRANTS[1].replace("DATABASE softprompt", f"DATABASE {database}")
    owner = postgres_url.replace("//tester", "//softprompt_owner")
    server = postgres_url.replace("//tester", "//softprompt")
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        try:
            connection.execute(statements.encode())
            Database.migrate(owner)
            with (
                psycopg.connect(server) as own,
                pytest.raises(psycopg.errors.InsufficientPrivilege),
            ):
                own.execute("CREATE TABLE not_allowed (id int)")
            catalogue = Catalogue.open(server)
            catalogue.add_version("support", "v1", Content("hard", text="Be brief."), {})
            assert catalogue.revision() == 1
            catalogue.close()
        finally:
            for role in ("softprompt", "softprompt_owner"):
                connection.execute(f"DROP OWNED BY {role} CASCADE")
                connection.execute(f"DROP ROLE {role}")


# --- measuring and scaling


def test_prometheus_s_job_is_the_one_that_the_rules_look_for(cuda: Cluster) -> None:
    monitor = cuda["ServiceMonitor", SERVER]["spec"]
    assert "jobLabel" not in monitor  # so that the job is the Service's name
    service = cuda["Service", SERVER]
    assert selects(monitor["selector"]["matchLabels"], service["metadata"]["labels"])
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    scrape = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    (job,) = scrape["scrape_configs"]
    assert (job["job_name"], job["metrics_path"]) == (SERVER, endpoint["path"])


def test_the_alerts_are_those_of_prometheus(cuda: Cluster) -> None:
    files = sorted((DEPLOY / "prometheus" / "rules").glob("*.yaml"))
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    assert cuda["PrometheusRule", SERVER]["spec"]["groups"] == groups


def test_more_servers_come_when_requests_wait(cuda: Cluster) -> None:
    scaler = cuda["HorizontalPodAutoscaler", SERVER]["spec"]
    (rule,) = ADAPTER["rules"]["custom"]
    (metric,) = scaler["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    series = rule["seriesQuery"].partition("{")[0]
    assert f'"{series}"' in vllm_source("v1/metrics/loggers.py")
    target = scaler["scaleTargetRef"]
    assert (target["kind"], target["name"]) in cuda


def test_only_one_decides_how_many_servers_there_are(cluster: Cluster) -> None:
    replicas = cluster["Deployment", SERVER]["spec"].get("replicas")
    assert (replicas is None) == bool(cluster.kind("HorizontalPodAutoscaler"))
    assert replicas is None or replicas >= 2


def test_one_pod_at_a_time_may_be_taken_away(cluster: Cluster) -> None:
    assert cluster["PodDisruptionBudget", SERVER]["spec"]["maxUnavailable"] == 1
    strategy = cluster["Deployment", SERVER]["spec"]["strategy"]["rollingUpdate"]
    assert strategy == {"maxSurge": 1, "maxUnavailable": 0}
