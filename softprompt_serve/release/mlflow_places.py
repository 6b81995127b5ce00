"""Addresses in MLflow, and the one folder there that holds a PEFT adapter."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from softprompt_serve.artifact.adapter import CONFIG_NAME, MAX_CONFIG_BYTES, WEIGHTS_NAME
from softprompt_serve.artifact.checks import DEFAULT_MAX_BYTES
from softprompt_serve.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MODEL_ID: Final = re.compile(r"m-[0-9a-f]{32}")
_MAX_FOLDERS: Final = 500
_LISTED: Final = 10


@dataclass(frozen=True, slots=True)
class Place:
    """Where artifacts lie: a run or a logged model; both calls are MLflow's."""

    uri: str
    listed: Callable[[str | None], list[Any]]
    download: Callable[[str, str], str]


def resolve(client: Any, address: str) -> tuple[str, str | None, PurePosixPath | None]:
    """Run, logged model and path that an address names.

    Raises:
        BadRequest: ``mlflow_bad_address``.
    """
    scheme, colon, rest = address.partition(":")
    parts = PurePosixPath(rest if colon else address).parts
    parts = parts[1:] if parts[:1] == ("/",) else parts
    path = PurePosixPath(*parts[1:]) if len(parts) > 1 else None
    if parts and ".." not in parts:
        if not colon and path is None:
            return parts[0], None, None
        if scheme == "runs":
            return parts[0], None, path
        if scheme == "models" and _MODEL_ID.fullmatch(parts[0]):
            return client.get_logged_model(parts[0]).source_run_id, parts[0], path
        if scheme == "models":
            return _registered(client, address, parts)
    msg = (
        f"{address!r} is no address of a run; expected its id, runs:/ID, runs:/ID/PATH, "
        "models:/m-ID, models:/NAME/VERSION or models:/NAME@ALIAS."
    )
    raise BadRequest(msg, code="mlflow_bad_address")


def _registered(
    client: Any, address: str, parts: tuple[str, ...]
) -> tuple[str, str | None, PurePosixPath | None]:
    name, at, alias = parts[0].partition("@")
    if at and len(parts) == 1:
        found = client.get_model_version_by_alias(name, alias)
    elif len(parts) == len(("name", "version")):
        found = client.get_model_version(name, parts[1])
    else:
        msg = f"{address!r} names no version; expected models:/NAME/VERSION or models:/NAME@ALIAS."
        raise BadRequest(msg, code="mlflow_bad_address")
    if str(found.source).startswith(("runs:/", "models:/m-")):
        return resolve(client, found.source)
    return found.run_id, None, None


def of_run(client: Any, run_id: str) -> Place:
    """Where a run's own artifacts lie."""
    return Place(
        f"runs:/{run_id}",
        lambda path: client.list_artifacts(run_id, path),
        lambda path, into: client.download_artifacts(run_id, path, into),
    )


def of_model(mlflow: Any, client: Any, model_id: str, uri: str) -> Place:
    """Where a logged model's artifacts lie, on the tracking server or store at ``uri``."""
    location = client.get_logged_model(model_id).artifact_location
    return Place(
        f"models:/{model_id}",
        lambda path: client.list_logged_model_artifacts(model_id, path),
        lambda path, into: mlflow.artifacts.download_artifacts(
            artifact_uri=f"{location}/{path}", dst_path=into, tracking_uri=uri
        ),
    )


def only_adapter(places: list[Place], path: PurePosixPath | None) -> tuple[Place, PurePosixPath]:
    """The one folder that holds an adapter, at or below ``path``.

    Raises:
        BadRequest: ``mlflow_no_adapter`` or ``mlflow_several_adapters``.
    """
    found: list[tuple[Place, PurePosixPath]] = []
    pickled: list[str] = []
    for place in places:
        for folder, files in _folders(place, path):
            if CONFIG_NAME not in files:
                continue
            if WEIGHTS_NAME in files:
                _check_sizes(files)
                found.append((place, folder))
            else:
                pickled.append(f"{place.uri}/{folder}")
    if len(found) == 1:
        return found[0]
    if not found:
        where = " or ".join(place.uri for place in places)
        msg = f"There is no PEFT adapter in {where}: no folder with {CONFIG_NAME}, {WEIGHTS_NAME}."
        if pickled:
            msg += f" {', '.join(pickled)} has no {WEIGHTS_NAME}; save it as safetensors."
        raise BadRequest(msg, code="mlflow_no_adapter")
    names = [f"{place.uri}/{folder}".removesuffix("/.") for place, folder in found]
    rest = ", …" if len(names) > _LISTED else ""
    msg = f"There are {len(names)} adapters; name one of them: {', '.join(names[:_LISTED])}{rest}."
    raise BadRequest(msg, code="mlflow_several_adapters")


def _folders(
    place: Place, path: PurePosixPath | None
) -> Iterator[tuple[PurePosixPath, dict[str, int]]]:
    """Each folder with its files and their sizes in bytes."""
    waiting = [None if path is None else str(path)]
    for visited, folder in enumerate(waiting):
        if visited == _MAX_FOLDERS:
            msg = f"{place.uri} has more than {_MAX_FOLDERS} folders; name the adapter's own."
            raise BadRequest(msg, code="mlflow_several_adapters")
        entries = place.listed(folder)
        waiting += [entry.path for entry in entries if entry.is_dir]
        files = {PurePosixPath(e.path).name: e.file_size or 0 for e in entries if not e.is_dir}
        yield PurePosixPath(folder or "."), files


def _check_sizes(files: dict[str, int]) -> None:
    for name, most in ((CONFIG_NAME, MAX_CONFIG_BYTES), (WEIGHTS_NAME, DEFAULT_MAX_BYTES)):
        if files[name] > most:
            msg = f"{name} has {files[name]} bytes; at most {most} are accepted."
            raise BadRequest(msg, code="mlflow_no_adapter")
