"""The archive that BIG-bench's tasks come in: fetched once, checked, read without unpacking.

It is a source distribution of which nothing is installed or run. Its items must not get into
anything that models may be trained on, so they stay in a folder that git ignores.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import httpx
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from softprompt_serve.errors import BadRequest, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from rich.console import Console

    from softprompt_serve.demo.pip_index import Pip

_MAX_TASK_BYTES: Final = 32 * 1024 * 1024
_CHUNK_BYTES: Final = 1024 * 1024
_FULL: Final = "there is no room left"


@dataclass(frozen=True, slots=True)
class Archive:
    """A file that is known before it is fetched.

    Attributes:
        package: the project it belongs to.
        file: its name.
        sha256, size: of its bytes.
    """

    package: str
    file: str
    sha256: str
    size: int

    def check(self, path: Path) -> None:
        """Make sure that a file is this archive.

        Raises:
            BadRequest: ``bbh_archive``.
        """
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            msg = f"{path} can't be read: {error.strerror or error}."
            raise BadRequest(msg, code="bbh_archive") from error
        if found != self.sha256:
            msg = (
                f"{path} is not {self.file}: its SHA-256 is {found}, expected {self.sha256}. "
                "Remove it; nothing of it was read."
            )
            raise BadRequest(msg, code="bbh_archive")


BIGBENCH: Final = Archive(
    "bigbench",
    "bigbench-1.0.0.tar.gz",
    "1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2",
    358_249_635,
)


def fetch(archive: Archive, folder: Path, pip: Callable[[], Pip], console: Console) -> Path:
    """The archive in ``folder``, checked; fetched if it isn't there, from where it was stopped.

    Args:
        archive: what.
        folder: where to; made if it isn't there.
        pip: says where from, if that must be known.
        console: shows how far it is.

    Raises:
        BadRequest: ``bbh_archive``: what is there, or what came, is another file;
            ``bbh_unwritable``: there is no room, or no right to write.
        NotFound, Unavailable: ``bbh_not_found``, ``bbh_no_pip``, ``bbh_unreachable``.
    """
    path = folder / archive.file
    if path.exists():
        archive.check(path)
        return path
    part = folder / f"{archive.file}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _complete(archive, part, pip, console)
        archive.check(part)
        part.replace(path)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        msg = (
            f"{archive.file} can't be fetched: {error or type(error).__name__}. The same command "
            f"goes on from what is in {part}; --archive takes a file from elsewhere."
        )
        raise Unavailable(msg, code="bbh_unreachable") from error
    except OSError as error:
        why = _FULL if error.errno == errno.ENOSPC else error.strerror or str(error)
        msg = f"{archive.file} ({archive.size:,} bytes) can't be written to {folder}: {why}."
        raise BadRequest(msg, code="bbh_unwritable") from error
    except BadRequest:
        part.unlink()  # going on from it would only find the same again
        raise
    return path


def _complete(archive: Archive, part: Path, pip: Callable[[], Pip], console: Console) -> None:
    have = part.stat().st_size if part.exists() else 0
    if have >= archive.size:
        return
    if shutil.disk_usage(part.parent).free < archive.size - have:
        raise OSError(errno.ENOSPC, _FULL)
    where = pip()
    columns = (TextColumn(archive.file), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with (
        where.client() as client,
        Progress(*columns, TimeRemainingColumn(), console=console) as progress,
    ):
        task = progress.add_task("", total=archive.size, completed=have)
        address = where.address(client, archive.package, archive.file)
        for done in _received(client, address, part, archive.size):
            progress.update(task, completed=done)


def _received(client: httpx.Client, address: str, part: Path, size: int) -> Iterator[int]:
    """Append what is missing to ``part``; after each piece, how many bytes it has."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"accept-encoding": "identity"} | ({"range": f"bytes={have}-"} if have else {})
    with client.stream("GET", address, headers=headers) as answer:
        answer.raise_for_status()
        if answer.status_code != httpx.codes.PARTIAL_CONTENT:
            have = 0  # a server that sends all of it again
        with part.open("ab" if have else "wb") as file:
            for piece in answer.iter_raw(_CHUNK_BYTES):
                have += len(piece)
                if have > size:
                    break  # it is another file, as its hash will say
                file.write(piece)
                yield have
    if have < size:
        msg = f"the connection ended after {have:,} of {size:,} bytes"
        raise httpx.RemoteProtocolError(msg)


def read_tasks(path: Path, folders: Collection[str]) -> dict[str, dict[str, Any]]:
    """The ``task.json`` of each folder below ``benchmark_tasks``; nothing is unpacked.

    Raises:
        BadRequest: ``bbh_archive``: it is damaged, a name in it leads out of it, or a task is no
            plain file of at most 32 MB with a JSON object.
    """
    tasks: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(path, "r|gz") as tar:
            for member in tar:
                folder = _folder(member)
                if folder is not None and folder in folders and folder not in tasks:
                    tasks[folder] = _task(tar, member)
                if len(tasks) == len(folders):
                    break
    except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError) as error:
        msg = f"{path} can't be read as an archive of BIG-bench: {error or type(error).__name__}."
        raise BadRequest(msg, code="bbh_archive") from error
    return tasks


def _folder(member: tarfile.TarInfo) -> str | None:
    """Whose ``task.json`` a member is."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        msg = f"the name {member.name!r} leads out of it"
        raise ValueError(msg)
    match name.parts:
        case (_, "bigbench", "benchmark_tasks", *folder, "task.json"):
            return "/".join(folder)
    return None


def _task(tar: tarfile.TarFile, member: tarfile.TarInfo) -> dict[str, Any]:
    if not member.isreg() or member.size > _MAX_TASK_BYTES:
        msg = f"{member.name} is no plain file of at most {_MAX_TASK_BYTES:,} bytes"
        raise ValueError(msg)
    file = tar.extractfile(member)
    data = json.loads(file.read()) if file else None
    if not isinstance(data, dict):
        msg = f"{member.name} holds no JSON object"
        raise ValueError(msg)  # noqa: TRY004 - all that is wrong with an archive is a ValueError
    return data
