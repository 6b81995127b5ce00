"""Files that a command reads whole or writes whole."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

from softprompt_serve.errors import BadRequest

_ASKED_OF_UMASK: Final = 0o666


def read_file(path: Path, most_bytes: int) -> bytes:
    """A file's bytes.

    Raises:
        BadRequest: ``file_unreadable``, or it has more than ``most_bytes``.
    """
    try:
        with path.open("rb") as file:
            data = file.read(most_bytes + 1)
    except OSError as error:
        msg = f"{path} can't be read: {error.strerror or error}"
        raise BadRequest(msg, code="file_unreadable") from error
    if len(data) > most_bytes:
        msg = f"{path} has more than the {most_bytes} bytes that are accepted."
        raise BadRequest(msg, code="file_unreadable")
    return data


def write_file(path: Path, data: bytes) -> None:
    """Write a file that is whole whenever it is there, in place of one that may be there.

    Raises:
        BadRequest: ``file_not_writable``.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        draft = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            draft.chmod(_ASKED_OF_UMASK & ~_umask())
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
    except OSError as error:
        msg = f"{path} can't be written: {error.strerror or error}"
        raise BadRequest(msg, code="file_not_writable") from error


def _umask() -> int:
    """The process's mask, which can be read only by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
