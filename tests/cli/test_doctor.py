from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from softprompt_serve.cli import app
from softprompt_serve.cli.client import Api
from softprompt_serve.cli.doctor import identity, live, readiness
from softprompt_serve.cli.findings import (
    GROUPS,
    accelerator_finding,
    configured,
    installed,
    vllm_finding,
)
from softprompt_serve.errors import Unavailable
from softprompt_serve.testing import ADMIN_TOKEN, FakeWorkers, app_for_tests, serving
from softprompt_serve.testing import service_for_tests as service_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from softprompt_serve.cli.findings import Finding


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("SOFTPROMPT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SOFTPROMPT_HOME", str(tmp_path / "home"))


@pytest.fixture
def workers() -> FakeWorkers:
    return FakeWorkers()


@pytest.fixture
def url(tmp_path: Path, workers: FakeWorkers) -> Iterator[str]:
    service = service_in(tmp_path / "server", workers=workers)
    with serving(app_for_tests(service)) as url:
        yield url


def by_subject(found: Iterable[Finding]) -> dict[str, Finding]:
    return {finding.subject: finding for finding in found}


# --- installed here


def test_no_vllm_fails_and_names_the_extras() -> None:
    finding = vllm_finding(None)
    assert (finding.level, "softprompt-serve[cpu]" in finding.advice) == ("fail", True)


def test_an_untested_vllm_fails_and_names_the_way_round() -> None:
    finding = vllm_finding(("vllm", "0.1.0"))
    assert finding.level == "fail"
    assert "SOFTPROMPT_ALLOW_UNSUPPORTED_VLLM" in finding.advice


def test_both_builds_of_vllm_at_once_fail() -> None:
    assert vllm_finding(("vllm", "0.32.0"), both=True).level == "fail"


@pytest.mark.parametrize(
    ("gpus", "cpu_build", "level"),
    [([], True, "ok"), (["H200"], False, "ok"), (["H200"], True, "warn"), ([], False, "warn")],
)
def test_the_accelerator_and_the_build_of_vllm_must_match(
    gpus: list[str], cpu_build: bool, level: str
) -> None:
    assert accelerator_finding(gpus, cpu_build=cpu_build).level == level


def test_both_entry_points_are_found_registered() -> None:
    found = by_subject(installed())
    assert [found[group].level for group in GROUPS] == ["ok", "ok"]


def test_a_filter_of_plugins_without_ours_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", "another")
    assert by_subject(installed())["VLLM_PLUGINS"].level == "warn"


# --- configured here


def test_a_bad_setting_fails_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTPROMPT_BANK_ROWS", "no")
    settings, found = configured()
    assert settings is None
    assert "SOFTPROMPT_BANK_ROWS" in found[0].found


def test_a_token_that_others_can_read_fails_with_the_remedy(tmp_path: Path) -> None:
    file = tmp_path / "home" / "admin-token"
    file.parent.mkdir()
    file.write_text("a-token-of-tests")
    file.chmod(0o644)
    finding = by_subject(configured()[1])["admin token"]
    assert (finding.level, finding.advice) == ("fail", f"chmod 600 {file}")


def test_no_token_yet_is_a_warning() -> None:
    assert by_subject(configured()[1])["admin token"].level == "warn"


# --- the running server


def test_a_healthy_server_has_no_failure(url: str) -> None:
    with Api(url, ADMIN_TOKEN) as api:
        found = by_subject(live(api))
    assert {finding.level for finding in found.values()} <= {"ok", "warn"}
    assert {"readiness", "overlay probe", "base model", "worker 0"} <= found.keys()


def test_a_wrong_token_fails_and_says_which_is_right(url: str) -> None:
    with Api(url, "another") as api:
        finding = by_subject(live(api))["admin API"]
    assert (finding.level, "SOFTPROMPT_HOME" in finding.advice) == ("fail", True)


def test_dead_workers_fail_with_their_reason(url: str, workers: FakeWorkers) -> None:
    workers.failure = Unavailable("The engine is gone.", code="workers_failed")
    with Api(url, ADMIN_TOKEN) as api:
        finding = by_subject(live(api))["readiness: workers"]
    assert (finding.level, finding.found) == ("fail", "The engine is gone.")


def test_a_lost_catalogue_of_a_ready_server_is_a_warning() -> None:
    data = {"ready": True, "checks": {"catalogue": "gone", "workers": "ok"}}
    assert [finding.level for finding in readiness(data)] == ["ok", "warn"]


def test_another_version_on_the_server_than_here_is_a_warning() -> None:
    model = {"name": "m", "revision": "r", "fingerprint": None}
    about = {"probe": {"rows": 3}, "base_model": model, "softprompt_serve": "0", "vllm": "vllm 0"}
    found = by_subject(identity(about))
    assert found["softprompt_serve of the server"].level == "warn"


# --- the command


def test_without_a_server_the_exit_status_is_1_and_the_way_to_start_one_is_said() -> None:
    result = CliRunner().invoke(app, ["doctor", "--url", "http://127.0.0.1:9"])
    assert result.exit_code == 1
    assert "softprompt-serve serve" in result.stdout


def test_with_a_healthy_server_the_exit_status_is_0(url: str) -> None:
    result = CliRunner().invoke(app, ["doctor", "--url", url, "--token", ADMIN_TOKEN])
    assert result.exit_code == 0, result.stdout


def test_json_has_every_finding(url: str) -> None:
    result = CliRunner().invoke(app, ["doctor", "--url", url, "--token", ADMIN_TOKEN, "--json"])
    data = json.loads(result.stdout)
    assert data["ok"] is True
    assert {"subject", "level", "found", "advice"} == data["findings"][0].keys()
