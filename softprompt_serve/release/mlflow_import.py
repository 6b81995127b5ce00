"""Read a logged PEFT adapter and what its training run logged from MLflow.

Through MLflow's public client, which is not installed by default (``mlflow-skinny`` is enough). An
adapter is a folder with ``adapter_config.json`` and ``adapter_model.safetensors`` among the run's
artifacts, or among those of a model that the run logged (MLflow 3 keeps these apart).
"""

from __future__ import annotations

import importlib
import json
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn
from urllib.parse import unquote, urlsplit

from softprompt_serve.artifact.adapter import CONFIG_NAME, WEIGHTS_NAME
from softprompt_serve.errors import BadRequest
from softprompt_serve.release.mlflow_curves import curve_names
from softprompt_serve.release.mlflow_places import of_model, of_run, only_adapter, resolve
from softprompt_serve.release.mlflow_record import (
    CREDENTIALS,
    Dataset,
    LoggedRun,
    record_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from softprompt_serve.release.records import ReleaseRecord

TRACKING: Final = "MLFLOW_TRACKING_URI"
_ENVIRONMENT: Final = {
    "MLFLOW_ALLOW_FILE_STORE": "true",  # reading a local store is as safe as it ever was
    "MLFLOW_DISABLE_TELEMETRY": "true",  # nobody asked for it
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # by default it tries for minutes
}


@dataclass(frozen=True, slots=True)
class Logged:
    """An adapter that was fetched, and its record.

    Attributes:
        folder: a local PEFT adapter's folder.
        record: what the run logged of it.
        remarks: what was left out of the record, or thinned, for a person.
        source: the adapter's address in MLflow.
    """

    folder: Path
    record: ReleaseRecord
    remarks: tuple[str, ...]
    source: str


def fetch(address: str, tracking_uri: str | None, into: Path) -> Logged:
    """Fetch the adapter that a run logged, and read the run's record.

    Args:
        address: a run's id, ``runs:/ID[/PATH]``, ``models:/m-ID[/PATH]``, ``models:/NAME/VERSION``
            or ``models:/NAME@ALIAS``; a path chooses among several adapters.
        tracking_uri: of the tracking server or store; else ``MLFLOW_TRACKING_URI``.
        into: an existing local directory, which gets the adapter's two files.

    Raises:
        BadRequest: ``mlflow_not_installed``, ``mlflow_no_store``, ``mlflow_bad_address``,
            ``mlflow_not_found``, ``mlflow_failed``, ``mlflow_no_adapter``,
            ``mlflow_several_adapters``, ``invalid_record`` or ``file_unreadable``.
    """
    uri = _tracking_uri(tracking_uri)
    mlflow = _mlflow()
    with _explained(mlflow, uri):
        client = mlflow.MlflowClient(tracking_uri=uri)
        run_id, model_id, path = resolve(client, address)
        run = client.get_run(run_id)
        if model_id is None:
            outputs = getattr(run, "outputs", None)  # MLflow 2 has none
            models = [output.model_id for output in getattr(outputs, "model_outputs", [])]
            places = [of_run(client, run_id), *(of_model(mlflow, client, m, uri) for m in models)]
        else:
            places = [of_model(mlflow, client, model_id, uri)]
        place, folder = only_adapter(places, path)
        for name in (CONFIG_NAME, WEIGHTS_NAME):
            place.download(str(folder / name), str(into))
        record, remarks = record_of(_read(client, run, _config(into / CONFIG_NAME)))
    return Logged(into, record, remarks, f"{place.uri}/{folder}".removesuffix("/."))


def _mlflow() -> Any:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        return importlib.import_module("mlflow")
    except ImportError as error:
        msg = (
            "MLflow is not installed: install softprompt-serve with its extra `mlflow` "
            "(or the package mlflow-skinny)."
        )
        raise BadRequest(msg, code="mlflow_not_installed") from error


def _tracking_uri(given: str | None) -> str:
    uri = given or os.environ.get(TRACKING)
    if not uri:
        msg = f"Where is MLflow? Give --tracking-uri or {TRACKING}, such as file:///PATH/mlruns."
        raise BadRequest(msg, code="mlflow_no_store")
    url = urlsplit(uri)
    here = {"": url.path, "file": unquote(url.path), "sqlite": url.path[1:]}.get(url.scheme)
    if here is not None and not Path(here).exists():  # MLflow would make one
        msg = f"There is no MLflow store at {uri}."
        raise BadRequest(msg, code="mlflow_no_store")
    return uri


@contextmanager
def _explained(mlflow: Any, uri: str) -> Iterator[None]:
    """MLflow's own errors as ours; whatever else its stores raise, such as a lost connection."""
    try:
        yield
    except BadRequest:
        raise
    except mlflow.exceptions.MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            msg = f"MLflow at {uri} has no such thing: {error.message}"
            raise BadRequest(CREDENTIALS.sub("", msg), code="mlflow_not_found") from error
        _failed(uri, error)
    except (OSError, ImportError) as error:
        _failed(uri, error)


def _failed(uri: str, error: Exception) -> NoReturn:
    reason = str(error).strip().split("\n", 1)[0]
    msg = f"MLflow at {uri} can't be read: {reason}"
    raise BadRequest(CREDENTIALS.sub("", msg), code="mlflow_failed") from error


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        msg = f"{CONFIG_NAME} is not JSON: {error}."
        raise BadRequest(msg, code="mlflow_no_adapter") from error
    return config if isinstance(config, dict) else {}


def _read(client: Any, run: Any, adapter: dict[str, Any]) -> LoggedRun:
    data = run.data
    names = curve_names(data.metrics)
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in names}
    inputs = getattr(run.inputs, "dataset_inputs", [])
    return LoggedRun(
        id=run.info.run_id,
        name=run.info.run_name,
        params=dict(data.params),
        tags=dict(data.tags),
        metrics=dict(data.metrics),
        curves={
            name: [(metric.step, metric.value) for metric in history]
            for name, history in histories.items()
            if len(history) > 1
        },
        datasets=[
            Dataset(
                entry.dataset.name,
                entry.dataset.digest,
                {tag.key: tag.value for tag in entry.tags}.get("mlflow.data.context"),
            )
            for entry in inputs
        ],
        adapter=adapter,
    )
