"""Adapters and records out of a real MLflow store on this machine's disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from softprompt_serve.errors import BadRequest
from softprompt_serve.release import mlflow_import
from softprompt_serve.release.mlflow_import import fetch

# MLflow 3.17's own tables, which it maps with the first of its databases.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

HIDDEN_SIZE = 8


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in mlflow_import._ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)  # where it makes its own store, asked for or not
    return pytest.importorskip("mlflow")


class Store:
    """A store with one run, written by MLflow itself."""

    def __init__(self, mlflow: Any, folder: Path, uri: str | None = None) -> None:
        self.mlflow = mlflow
        self.folder = folder
        self.uri = uri or (folder / "store").as_uri()
        (folder / "store").mkdir()
        self.client = mlflow.MlflowClient(tracking_uri=self.uri)
        artifacts = (folder / "artifacts").as_uri()
        experiment = self.client.create_experiment("support", artifact_location=artifacts)
        tags = {
            "mlflow.user": "ada",
            "mlflow.source.name": "train.py",
            "mlflow.source.git.commit": "0123abc",
        }
        self.run = self.client.create_run(experiment, run_name="loud-owl-1", tags=tags).info.run_id
        for name, value in {"learning_rate": 0.3, "seed": 7, "dataset_version": "3"}.items():
            self.client.log_param(self.run, name, value)
        for step in range(0, 40, 10):
            self.client.log_metric(self.run, "loss", 4.0 / (step + 1), step=step)
        self.client.log_metric(self.run, "accuracy", 0.75)

    def adapter(self, name: str = "adapter", **config: Any) -> Path:
        folder = self.folder / name
        folder.mkdir(parents=True)
        save_file(
            {"prompt_embeddings": torch.full((4, HIDDEN_SIZE), 0.5)},
            folder / "adapter_model.safetensors",
        )
        about = {
            "peft_type": "PROMPT_TUNING",
            "num_virtual_tokens": 4,
            "base_model_name_or_path": "base-model",
            **config,
        }
        (folder / "adapter_config.json").write_text(json.dumps(about))
        return folder

    def log(self, folder: Path, path: str | None = None) -> None:
        self.client.log_artifacts(self.run, str(folder), path)

    def log_model(self, folder: Path) -> str:
        """As MLflow 3 does: a model beside the run, which names it as its output."""
        experiment = self.client.get_run(self.run).info.experiment_id
        model = self.client.create_logged_model(experiment, "adapter", source_run_id=self.run)
        self.client.log_model_artifacts(model.model_id, str(folder))
        self.client.finalize_logged_model(model.model_id, "READY")
        output = self.mlflow.entities.LoggedModelOutput(model.model_id, step=0)
        self.client.log_outputs(self.run, [output])
        return model.model_id

    def fetch(self, address: str | None = None) -> mlflow_import.Logged:
        into = self.folder / "into"
        into.mkdir()
        return fetch(address or self.run, self.uri, into)


@pytest.fixture
def store(mlflow: Any, tmp_path: Path) -> Store:
    return Store(mlflow, tmp_path)


def refused(call: Callable[[], object]) -> BadRequest:
    with pytest.raises(BadRequest) as error:
        call()
    return error.value


def test_a_logged_adapter_comes_with_the_record_of_its_run(store: Store) -> None:
    adapter = store.adapter()
    store.log(adapter, "model/peft")
    logged = store.fetch()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (logged.folder / name).read_bytes() == (adapter / name).read_bytes()
    assert logged.source == f"runs:/{store.run}/model/peft"
    assert logged.remarks == ()
    assert logged.record.given() == {
        "base_model": "base-model",
        "created_by": "ada",
        "dataset_version": "3",
        "method": "prompt_tuning",
        "metrics": {"accuracy": 0.75, "loss": 4.0 / 31},
        "notes": f"MLflow run {store.run} (loud-owl-1).",
        "optimizer": {"learning_rate": 0.3},
        "seed": 7,
        "training_code": "train.py@0123abc",
        "training_curve": [{"step": s, "loss": 4.0 / (s + 1)} for s in range(0, 40, 10)],
    }


def test_nothing_but_the_adapters_two_files_is_fetched(store: Store) -> None:
    adapter = store.adapter()
    (adapter / "optimizer.pt").write_bytes(b"\x80pickle")
    store.log(adapter)
    logged = store.fetch()
    assert len(list(logged.folder.iterdir())) == 2
    assert logged.source == f"runs:/{store.run}"


def test_a_logged_input_is_the_records_data_set(store: Store) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag  # noqa: PLC0415

    store.log(store.adapter())
    data = Dataset(name="tickets", digest="75280946", source_type="local", source="{}")
    tags = [InputTag("mlflow.data.context", "training")]
    store.client.log_inputs(store.run, [DatasetInput(data, tags)])
    assert store.fetch().record.dataset == "tickets"


@pytest.mark.parametrize(
    "address", ["run", "runs:/{run}", "models:/{model}", "models:/{model}/peft"]
)
def test_a_model_that_the_run_logged_is_found(store: Store, address: str) -> None:
    store.adapter("logged/peft")
    model = store.log_model(store.folder / "logged")
    asked = store.run if address == "run" else address.format(run=store.run, model=model)
    logged = store.fetch(asked)
    assert logged.source == f"models:/{model}/peft"
    assert logged.record.seed == 7


@pytest.mark.parametrize("address", ["models:/sorter/1", "models:/sorter@best"])
def test_a_registered_version_is_found(store: Store, address: str) -> None:
    store.log(store.adapter(), "model/peft")
    client = store.mlflow.MlflowClient(tracking_uri=store.uri, registry_uri=store.uri)
    client.create_registered_model("sorter")
    client.create_model_version("sorter", f"runs:/{store.run}/model", run_id=store.run)
    client.set_registered_model_alias("sorter", "best", "1")
    assert store.fetch(address).source == f"runs:/{store.run}/model/peft"


def test_of_several_adapters_each_is_named(store: Store) -> None:
    store.log(store.adapter("a"), "checkpoint-10")
    store.log(store.adapter("b"), "checkpoint-20")
    error = refused(store.fetch)
    assert error.code == "mlflow_several_adapters"
    assert f"runs:/{store.run}/checkpoint-10, runs:/{store.run}/checkpoint-20" in error.message


def test_a_path_chooses_among_several_adapters(store: Store) -> None:
    store.log(store.adapter("a"), "checkpoint-10")
    store.log(store.adapter("b", num_virtual_tokens=9), "checkpoint-20")
    logged = store.fetch(f"runs:/{store.run}/checkpoint-20")
    assert (
        json.loads((logged.folder / "adapter_config.json").read_text())["num_virtual_tokens"] == 9
    )


def test_a_run_without_an_adapter_says_what_was_looked_for(store: Store) -> None:
    error = refused(store.fetch)
    assert error.code == "mlflow_no_adapter"
    assert "adapter_config.json" in error.message


def test_a_pickled_adapter_is_named_and_not_fetched(store: Store) -> None:
    adapter = store.adapter()
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    store.log(adapter, "model")
    error = refused(store.fetch)
    assert error.code == "mlflow_no_adapter"
    assert f"runs:/{store.run}/model has no adapter_model.safetensors" in error.message


def test_weights_that_are_too_large_are_not_fetched(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("softprompt_serve.release.mlflow_places.DEFAULT_MAX_BYTES", 10)
    store.log(store.adapter())
    assert "at most 10" in refused(store.fetch).message
    assert not list((store.folder / "into").iterdir())


def test_an_unreadable_configuration_is_refused(store: Store) -> None:
    adapter = store.adapter()
    (adapter / "adapter_config.json").write_text("{")
    store.log(adapter)
    assert refused(store.fetch).code == "mlflow_no_adapter"


@pytest.mark.parametrize("address", ["0" * 32, f"runs:/{'0' * 32}", f"models:/m-{'0' * 32}"])
def test_a_run_that_is_not_there_is_not_found(store: Store, address: str) -> None:
    assert refused(lambda: store.fetch(address)).code == "mlflow_not_found"


@pytest.mark.parametrize(
    "address", ["", "runs:/", "a/b", "s3://bucket/run", "runs:/../x", "models:/a", "models:/a/1/b"]
)
def test_what_is_no_address_is_refused(store: Store, address: str) -> None:
    into = store.folder
    assert refused(lambda: fetch(address, store.uri, into)).code == "mlflow_bad_address"


def test_the_store_may_be_named_by_the_environment(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.log(store.adapter())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    assert fetch(store.run, None, store.folder).record.seed == 7


def test_without_any_store_it_asks_for_one(mlflow: Any, tmp_path: Path) -> None:
    error = refused(lambda: fetch("0" * 32, None, tmp_path))
    assert (error.code, "--tracking-uri" in error.message) == ("mlflow_no_store", True)


@pytest.mark.parametrize("scheme", ["file://", "sqlite:///", ""])
def test_a_store_that_is_not_there_is_not_made(mlflow: Any, tmp_path: Path, scheme: str) -> None:
    missing = tmp_path / "missing"
    error = refused(lambda: fetch("0" * 32, f"{scheme}{missing}", tmp_path))
    assert error.code == "mlflow_no_store"
    assert not missing.exists()


def test_a_store_in_a_database_is_read_alike(mlflow: Any, tmp_path: Path) -> None:
    store = Store(mlflow, tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}")
    store.adapter("logged/peft")
    model = store.log_model(tmp_path / "logged")
    logged = store.fetch()
    assert logged.source == f"models:/{model}/peft"
    assert logged.record.seed == 7


def test_a_server_that_can_not_be_reached_is_an_error_without_its_password(
    mlflow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    error = refused(lambda: fetch("0" * 32, "http://ada:secret@127.0.0.1:9", tmp_path))
    assert error.code == "mlflow_failed"
    assert "MLflow at http://127.0.0.1:9 can't be read" in error.message
    assert "secret" not in error.message


def test_without_mlflow_it_says_which_extra_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(mlflow_import.importlib, "import_module", missing)
    error = refused(lambda: fetch("0" * 32, tmp_path.as_uri(), tmp_path))
    assert (error.code, "extra `mlflow`" in error.message) == ("mlflow_not_installed", True)
