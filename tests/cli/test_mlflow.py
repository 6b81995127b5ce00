"""`import --from-mlflow` from a real MLflow store into a server over HTTP."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from softprompt_serve.release import mlflow_import

if TYPE_CHECKING:
    from tests.cli.conftest import Cli


@pytest.fixture
def run(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """The store's URI and the id of a run in it that logged an adapter."""
    for name, value in mlflow_import._ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    mlflow: Any = pytest.importorskip("mlflow")
    (cli.folder / "store").mkdir()
    uri = (cli.folder / "store").as_uri()
    client = mlflow.MlflowClient(tracking_uri=uri)
    run_id = client.create_run(client.create_experiment("support")).info.run_id
    client.log_param(run_id, "seed", 7)
    client.log_param(run_id, "dataset_sha256", "75280946")
    client.log_artifacts(run_id, str(cli.adapter(rows=4)), "model")
    return uri, run_id


def test_a_logged_adapter_becomes_a_version_with_its_record(cli: Cli, run: tuple[str, str]) -> None:
    uri, run_id = run
    direct = cli.json("import", str(cli.folder / "adapter"), "-p", "direct")
    answer = cli.json(
        *("import", "--from-mlflow", run_id, "--tracking-uri", uri),
        *("-p", "support", "--version", "v4"),
    )
    assert (answer["version"], answer["digest"]) == ("v4", direct["digest"])
    assert (answer["record"]["seed"], answer["record"]["method"]) == (7, "prompt_tuning")


def test_what_was_left_out_is_said(cli: Cli, run: tuple[str, str]) -> None:
    uri, run_id = run
    shown = cli("import", "--from-mlflow", run_id, "--tracking-uri", uri, "-p", "support").stdout
    assert f"Read from runs:/{run_id}/model." in shown
    assert "dataset_sha256 was left out" in shown


def test_a_record_file_comes_before_what_was_logged(cli: Cli, run: tuple[str, str]) -> None:
    uri, run_id = run
    record = cli.folder / "record.json"
    record.write_text(json.dumps({"dataset": "tickets", "seed": 8}))
    answer = cli.json(
        *("import", "--from-mlflow", f"runs:/{run_id}/model", "--tracking-uri", uri),
        *("-p", "support", "--record", str(record)),
    )
    found = answer["record"]
    assert (found["dataset"], found["seed"], found["method"]) == ("tickets", 8, "prompt_tuning")


def test_a_run_that_is_not_there_imports_nothing(cli: Cli, run: tuple[str, str]) -> None:
    failed = cli(
        *("import", "--from-mlflow", "0" * 32, "--tracking-uri", run[0], "-p", "support"), fails=1
    )
    assert "mlflow_not_found" in failed.stderr
    assert cli.json("list")["data"] == []


def test_a_path_and_a_run_do_not_go_together(cli: Cli) -> None:
    failed = cli("import", cli.tensor(), "--from-mlflow", "x", "-p", "support", fails=1)
    assert "not both" in failed.stderr
