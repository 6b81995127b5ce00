"""The compose stack: names, ports and paths that its parts expect of each other, and what is secret."""

from __future__ import annotations

import re
import runpy
import shlex
import stat
import subprocess
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
import pytest
import yaml
from deploy.facts import DEPLOY, ROOT, env_file, serve_flags, substituted, unknown_variables
from sqlalchemy.engine import make_url

from softprompt_serve.testing import ADMIN_TOKEN, app_for_tests, service_for_tests, serving

if TYPE_CHECKING:
    from pathlib import Path

    from softprompt_serve.cli.client import Api


def load(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / name).read_text()))


STACK = load("compose.yaml")
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
SERVER = SERVICES["softprompt-serve"]
ALERTS = yaml.safe_load((DEPLOY / "prometheus" / "rules" / "alerts.yaml").read_text())


def command(service: dict[str, Any], **given: str) -> list[str]:
    """A service's arguments, with variables as they are if only these are given."""
    return shlex.split(substituted(service["command"], given))


def mounts(name: str) -> list[tuple[str, str]]:
    """Source and target of each of a service's mounts."""
    return [(m.split(":")[0], m.split(":")[1]) for m in SERVICES[name].get("volumes", [])]


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


# --- who finds whom


def reached() -> list[tuple[str, str, int]]:
    """Who asks which host on which port, of all the configurations."""
    prometheus = load("prometheus/prometheus.yml")
    targets = [
        t for j in prometheus["scrape_configs"] for s in j["static_configs"] for t in s["targets"]
    ]
    (alerting,) = prometheus["alerting"]["alertmanagers"]
    targets += alerting["static_configs"][0]["targets"]
    found = [("prometheus", *split(target)) for target in targets]
    sources = load("grafana/provisioning/datasources/softprompt.yaml")["datasources"]
    found += [("grafana", *split(source["url"])) for source in sources]
    exporters = load("otel-collector/collector.yaml")["exporters"].values()
    found += [("otel-collector", *split(exporter["endpoint"])) for exporter in exporters]
    environment = SERVER["environment"]
    found.append(("softprompt-serve", *split(environment["OTEL_EXPORTER_OTLP_ENDPOINT"])))
    url = make_url(environment["SOFTPROMPT_DATABASE_URL"])
    found.append(("softprompt-serve", url.host or "", url.port or 0))
    found.append(
        ("demo-prompts", *split(SERVICES["demo-prompts"]["environment"]["SOFTPROMPT_URL"]))
    )
    return found


def split(address: str) -> tuple[str, int]:
    parts = urlsplit(address if "//" in address else f"//{address}")
    return parts.hostname or "", parts.port or 0


LISTENS = {
    "softprompt-serve": {8000},
    "postgres": {5432},
    "prometheus": {9090},
    "alertmanager": {9093},
    "grafana": {3000},
}
"""Ports on which the images listen by themselves; the server's flag is tested below."""


def listens(name: str) -> set[int]:
    if name == "tempo":
        tempo = load("tempo/tempo.yaml")
        grpc = tempo["distributor"]["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"]
        return {tempo["server"]["http_listen_port"], split(grpc)[1]}
    if name == "otel-collector":
        otlp = load("otel-collector/collector.yaml")["receivers"]["otlp"]["protocols"]
        return {split(protocol["endpoint"])[1] for protocol in otlp.values()}
    return LISTENS[name]


@pytest.mark.parametrize(("who", "host", "port"), reached())
def test_each_part_finds_the_other(who: str, host: str, port: int) -> None:
    assert set(SERVICES[who]["networks"]) & set(SERVICES[host]["networks"])
    assert port in listens(host)


def test_what_is_asked_for_its_health_can_answer() -> None:
    image = (ROOT / "Dockerfile.cpu").read_text()
    assert "HEALTHCHECK" in image
    for service in SERVICES.values():
        for name, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[name] or name == "softprompt-serve"
            if how["condition"] == "service_completed_successfully":
                assert SERVICES[name]["restart"] == "no"


def test_what_is_mounted_is_there() -> None:
    for name in SERVICES:
        for source, _ in mounts(name):
            assert (DEPLOY / source).exists() if source[0] == "." else source in STACK["volumes"]


def test_prometheus_keeps_what_leads_to_traces() -> None:
    assert "--enable-feature=exemplar-storage" in SERVICES["prometheus"]["command"]


def test_grafana_finds_the_dashboards_where_they_are_mounted() -> None:
    (provider,) = load("grafana/provisioning/dashboards/softprompt.yaml")["providers"]
    assert ("./grafana/json", provider["options"]["path"]) in mounts("grafana")


def test_the_memory_limiter_has_a_limit_to_take_its_share_of() -> None:
    assert SERVICES["otel-collector"]["mem_limit"]


# --- what is served


def test_by_default_the_demo_is_served_with_flags_that_vllm_has() -> None:
    parsed = serve_flags(command(SERVER))
    assert parsed.model_tag == SERVICES["demo-model"]["command"][0].split()[-1]
    assert parsed.served_model_name == ["SmolLM2-135M-Instruct"]
    assert (parsed.host, parsed.port, parsed.dtype) == ("0.0.0.0", 8000, "float32")


def test_another_model_is_served_without_the_demo_s_flags() -> None:
    parsed = serve_flags(command(SERVER, MODEL="some/model", ARGS="--max-model-len 4096"))
    assert parsed.model_tag == "some/model"
    assert parsed.served_model_name is None
    assert parsed.max_model_len == 4096


def test_on_a_gpu_a_model_must_be_named() -> None:
    cuda = load("compose.cuda.yaml")["services"]["softprompt-serve"]
    assert cuda["command"].startswith("${MODEL:?")
    named = re.sub(r"\$\{MODEL:\?[^}]*\}", "some/model", cuda["command"])
    assert serve_flags(shlex.split(substituted(named, {}))).shutdown_timeout == 60


def test_answers_may_end_before_the_server_is_killed() -> None:
    timeout = serve_flags(command(SERVER)).shutdown_timeout
    assert 0 < timeout < seconds(SERVER["stop_grace_period"])


def test_every_variable_of_the_server_is_read_by_somebody() -> None:
    names = {*SERVER["environment"], *env_file(DEPLOY / "compose" / "server.env")}
    assert unknown_variables(names) == set()
    assert unknown_variables({"SOFTPROMPT_NOPE"}) == {"SOFTPROMPT_NOPE"}


def test_every_variable_of_the_example_is_used() -> None:
    text = "".join(path.read_text() for path in DEPLOY.glob("compose*.yaml"))
    example = (DEPLOY / "compose" / "env.example").read_text()
    named = set(re.findall(r"^#([A-Z_]+)=", example, re.MULTILINE))
    used = set(re.findall(r"\$\{([A-Z_]+)", text))
    passed = {name for name, value in SERVER["environment"].items() if value is None}
    assert named == used | passed


def test_the_demo_s_prompts_are_imported_with_the_server_s_own_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def imported(api: Api, _console: object) -> list[str]:
        return [f"{len(api.get('/prompts').data['data'])} before"]

    monkeypatch.setattr("softprompt_serve.demo.seed.seed", imported)
    with serving(app_for_tests(service_for_tests(tmp_path))) as url:
        monkeypatch.setenv("SOFTPROMPT_URL", url)
        monkeypatch.setenv("SOFTPROMPT_HOME", str(tmp_path))
        (tmp_path / "admin-token").write_text(ADMIN_TOKEN)
        (tmp_path / "admin-token").chmod(0o600)
        runpy.run_path(str(DEPLOY / "compose" / "demo_prompts.py"))
    assert capsys.readouterr().out == "imported: 0 before\n"


# --- what is secret


def test_nothing_is_published_beyond_this_machine() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(published) == 4
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_the_database_is_on_a_network_that_leads_nowhere() -> None:
    assert SERVICES["postgres"]["networks"] == ["catalogue"]
    assert STACK["networks"]["catalogue"] == {"internal": True}
    assert [n for n, s in SERVICES.items() if "catalogue" in s.get("networks", [])] == [
        "softprompt-serve",
        "postgres",
    ]


def test_no_password_or_token_has_a_value() -> None:
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"TOKEN|PASSWORD|SECRET|KEY", name):
                assert value is None or name.endswith("FILE")


def test_images_of_others_are_pinned() -> None:
    for name, service in SERVICES.items():
        if "build" not in service:
            assert re.fullmatch(r"[a-z/-]+:v?\d+\.\d+(\.\d+)?", service["image"]), name


def test_no_part_can_gain_privileges() -> None:
    for name, service in SERVICES.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """A folder that the script has filled, with a `chown` that needs no root."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "secrets").mkdir()
    chown = tmp_path / "bin" / "chown"
    chown.write_text('#!/bin/sh\necho "$@" >> "$OWNERS"\n')
    chown.chmod(0o755)
    make(tmp_path)
    return tmp_path / "secrets"


def make(folder: Path) -> None:
    script = DEPLOY / "compose" / "make_secrets.sh"
    path = f"{folder / 'bin'}:/usr/bin:/bin"
    environment = {"PATH": path, "OWNERS": str(folder / "owners")}
    subprocess.run(["sh", script, folder / "secrets"], env=environment, check=True)


def test_passwords_are_made_and_nobody_else_may_read_them(secrets: Path) -> None:
    found = {path.name: path.read_text() for path in secrets.iterdir()}
    assert set(found) == {"postgres", "grafana", "pgpass"}
    assert re.fullmatch(r"[0-9a-f]{48}", found["postgres"])
    assert found["postgres"] != found["grafana"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets.iterdir()} == {0o600}


def test_a_second_start_makes_no_other_passwords(secrets: Path) -> None:
    before = {path.name: path.read_text() for path in secrets.iterdir()}
    make(secrets.parent)
    assert {path.name: path.read_text() for path in secrets.iterdir()} == before


def test_each_secret_belongs_to_the_user_that_reads_it(secrets: Path) -> None:
    owners = (secrets.parent / "owners").read_text().splitlines()
    assert owners == ["10001:10001 pgpass", "472:0 grafana"]
    assert "--uid 10001" in (ROOT / "Dockerfile.cpu").read_text()


def test_the_server_finds_its_password(secrets: Path) -> None:
    """Libpq itself looks the password up, by host, port, database and user."""
    url = make_url(SERVER["environment"]["SOFTPROMPT_DATABASE_URL"])
    folder, name = str(url.query["passfile"]).rsplit("/", 1)
    assert ("secrets", folder) in mounts("softprompt-serve")
    parameters = {**url.translate_connect_args(username="user", database="dbname")}
    parameters |= {"passfile": str(secrets / name), "hostaddr": "127.0.0.1", "connect_timeout": 2}
    connection = psycopg.pq.PGconn.connect_start(
        psycopg.conninfo.make_conninfo(**parameters).encode()
    )
    assert connection.password.decode() == (secrets / "postgres").read_text()
    connection.finish()


def test_the_database_and_grafana_read_what_is_made() -> None:
    files = [
        SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD_FILE"],
        SERVICES["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD__FILE"],
    ]
    for name, file in zip(("postgres", "grafana"), files, strict=True):
        assert ("secrets", file.rsplit("/", 1)[0]) in mounts(name)
        assert file.rsplit("/", 1)[1] == name


# --- alerts


def test_a_route_of_its_own_wakes_somebody_for_what_is_critical() -> None:
    route = load("alertmanager/alertmanager.yml")["route"]
    (critical,) = route["routes"]
    assert critical["matchers"] == ["severity = critical"]
    assert critical["receiver"] != route["receiver"]
    severities = {r["labels"]["severity"] for g in ALERTS["groups"] for r in g["rules"]}
    assert severities == {"critical", "warning"}


def test_alerts_that_silence_others_exist() -> None:
    names = {rule["alert"] for group in ALERTS["groups"] for rule in group["rules"]}
    text = (DEPLOY / "alertmanager" / "alertmanager.yml").read_text()
    named = set(re.findall(r"Softprompt[A-Za-z]+", text))
    assert named
    assert named <= names
