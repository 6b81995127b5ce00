"""From a path on this machine to the parts of an upload. The server does all the checking."""

from __future__ import annotations

import io
import zipfile
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from softprompt_serve.artifact.archive import MAX_ENTRIES
from softprompt_serve.cli.client import Answer, Api, prompt_path
from softprompt_serve.errors import BadRequest
from softprompt_serve.release.mlflow_import import fetch
from softprompt_serve.release.records import parse_record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from rich.console import Console

    from softprompt_serve.artifact.content import Kind

CONFIG: Final = "adapter_config.json"
_TEXT_SUFFIXES: Final = frozenset({".txt", ".md"})
_WORTH_A_BAR_BYTES: Final = 1024 * 1024


def as_parts(
    path: Path | None, *, kind: Kind | None, text: str | None
) -> tuple[Path | None, dict[str, str]]:
    """What to upload as the tensor, and the form fields beside it.

    A text file is a hard version's text; anything else is a learned version's tensor.

    Raises:
        BadRequest: ``file_unreadable``, ``invalid_upload`` (parts that don't go together).
    """
    if path is not None and path.suffix.lower() in _TEXT_SUFFIXES:
        if text is not None:
            msg = f"{path} is a text already; give --text or --text-file only beside a tensor."
            raise BadRequest(msg, code="invalid_upload")
        text, path = read_text(path), None
    if path is None and text is None and kind != "base":
        msg = (
            "Nothing to import: give a .safetensors file, a PEFT folder or its zip, a .txt or "
            "--text for a hard version, or --kind base."
        )
        raise BadRequest(msg, code="invalid_upload")
    form = {"kind": kind, "text": text}
    return path, {name: value for name, value in form.items() if value is not None}


def read_text(path: Path) -> str:
    """A file's text without the line ending at its end.

    Raises:
        BadRequest: ``file_unreadable``.
    """
    try:
        return path.read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path} can't be read as UTF-8 text: {error}"
        raise BadRequest(msg, code="file_unreadable") from error


@contextmanager
def from_mlflow(
    address: str, tracking_uri: str | None, record: str | None
) -> Iterator[tuple[Path, str, list[str]]]:
    """A logged adapter's folder, its release record as JSON, and what a person should know.

    What ``record``, JSON, says comes before what the run logged.

    Raises:
        BadRequest: as :func:`~softprompt_serve.release.mlflow_import.fetch`, or
            ``invalid_record``.
    """
    with TemporaryDirectory(prefix="softprompt-") as folder:
        logged = fetch(address, tracking_uri, Path(folder))
        given = parse_record(record).given()
        merged = parse_record(logged.record.given() | given)
        yield logged.folder, merged.to_text(), [f"Read from {logged.source}.", *logged.remarks]


def import_version(
    api: Api, prompt: str, path: Path | None, form: dict[str, str], console: Console
) -> Answer:
    """Upload a version; status 201 if it is new, 200 if the same content was there.

    Shows progress of a large file where ``console`` is a terminal.

    Raises:
        BadRequest: ``file_unreadable``.
        ApiError, Unreachable: from the server.
    """
    target = f"{prompt_path(prompt)}/versions"
    if path is None:
        return api.change("POST", target, form=form)
    with opened(path) as (name, file):
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        if size < _WORTH_A_BAR_BYTES or not console.is_terminal:
            return api.change("POST", target, form=form, tensor=(name, file))
        with _progress(console) as progress:
            reader = progress.wrap_file(file, total=size, description=f"Uploading {name}")
            return api.change("POST", target, form=form, tensor=(name, reader))


@contextmanager
def opened(path: Path) -> Iterator[tuple[str, BinaryIO]]:
    """The name and the bytes to upload: the file itself, or a folder zipped in memory.

    Raises:
        BadRequest: ``file_unreadable``.
    """
    try:
        file = _zipped(path) if path.is_dir() else path.open("rb")
    except OSError as error:
        msg = f"{path} can't be read: {error.strerror or error}"
        raise BadRequest(msg, code="file_unreadable") from error
    with file:
        yield (f"{path.name}.zip" if path.is_dir() else path.name), file


def _zipped(folder: Path) -> BinaryIO:
    """The adapter's own files; a training run's folder may hold gigabytes of others."""
    if not (folder / CONFIG).is_file():
        msg = f"{folder} holds no {CONFIG}; expected a PEFT adapter's folder."
        raise BadRequest(msg, code="file_unreadable")
    files = sorted(file for file in folder.glob("adapter_*") if file.is_file())[:MAX_ENTRIES]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", strict_timestamps=False) as archive:
        for file in files:
            archive.write(file, file.name)
    buffer.seek(0)
    return buffer


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    return Progress(*columns, TransferSpeedColumn(), console=console, transient=True)
