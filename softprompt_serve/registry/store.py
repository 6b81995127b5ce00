"""Blobs: the content of versions, each under its digest, written once; here, on disk.

A blob is exactly the bytes that the digest is taken over (preamble, header, newline, data), so
``sha256sum`` of the file is its name. Headers hold no newline.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from softprompt_serve.artifact.content import PREAMBLE, digest_of
from softprompt_serve.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_TEMPORARY: Final = ".tmp-"
# A write takes seconds; what is older belongs to a process that died.
_STALE_SECONDS: Final = 3600.0


class Blobs(Protocol):
    """What the server needs of a blob store, whichever holds the bytes."""

    def put(self, digest: str, header: bytes, data: bytes) -> None:
        """Store a content durably under its digest."""

    def get(self, digest: str) -> tuple[bytes, bytes]:
        """The header and data of a digest, checked."""

    def has(self, digest: str) -> bool:
        """Whether something is stored under the digest."""

    def delete(self, digest: str) -> None:
        """Forget a digest; nothing happens if it isn't there."""


def check_digest(digest: str) -> None:
    """Refuse what is no digest, with ``ValueError``: it becomes part of a path."""
    if not _DIGEST.fullmatch(digest):
        msg = f"{digest!r} is no digest; expected 64 lower-case hexadecimal digits."
        raise ValueError(msg)


def parts_of(digest: str, header: bytes, data: bytes) -> tuple[bytes, ...]:
    """What a content's blob consists of, one after another.

    Raises:
        ValueError: the bytes don't have that digest.
    """
    if digest_of(header, data) != digest or b"\n" in header:
        msg = f"The content does not have the digest {digest}."
        raise ValueError(msg)
    return PREAMBLE, header, b"\n", data


def is_sound(blob: bytes, digest: str) -> bool:
    """Whether these are the bytes that were stored under the digest."""
    return hashlib.sha256(blob).hexdigest() == digest and blob.startswith(PREAMBLE)


def content_of(blob: bytes) -> tuple[bytes, bytes]:
    """The header and data of a sound blob."""
    header, _, data = blob[len(PREAMBLE) :].partition(b"\n")
    return header, data


class BlobStore:
    """Blobs in a local directory, as ``<digest[:2]>/<digest>``.

    Several processes may share it. Every method raises ``ValueError`` for what is no digest.

    Raises:
        Unavailable: ``code="blob_store_unavailable"``, here and below: the disk is full, or the
            directory isn't ours to write.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory.expanduser().absolute()
        with _mapped(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
            self._sweep()

    def put(self, digest: str, header: bytes, data: bytes) -> None:
        """Store a content; when this returns, it survives a power cut.

        Raises:
            ValueError: the bytes don't have that digest.
        """
        path = self._path(digest)
        parts = parts_of(digest, header, data)
        with _mapped(path):
            if not path.parent.is_dir():
                path.parent.mkdir(exist_ok=True)
                _sync_directory(self._directory)
            if not _is_valid(path, digest):
                _write_whole(path, parts)
            # Also when another process wrote it and may not have come this far.
            _sync_directory(path.parent)

    def get(self, digest: str) -> tuple[bytes, bytes]:
        """The header and data of a digest, read and checked against it.

        Raises:
            Unavailable: ``code="blob_missing"`` or ``"blob_corrupt"``.
        """
        path = self._path(digest)
        with _mapped(path):
            try:
                blob = path.read_bytes()
            except FileNotFoundError as error:
                msg = f"The content {digest[:12]} is not in the blob store; import it again."
                raise Unavailable(msg, code="blob_missing", retry_after=None) from error
        if not is_sound(blob, digest):
            msg = f"The content {digest[:12]} is damaged on disk ({path}); import it again."
            raise Unavailable(msg, code="blob_corrupt", retry_after=None)
        return content_of(blob)

    def has(self, digest: str) -> bool:
        """Whether a file is there; only ``get`` says whether it is sound."""
        return self._path(digest).is_file()

    def delete(self, digest: str) -> None:
        """Remove a blob; nothing happens if it isn't there."""
        path = self._path(digest)
        with _mapped(path):
            path.unlink(missing_ok=True)
            if path.parent.is_dir():
                _sync_directory(path.parent)

    def _path(self, digest: str) -> Path:
        check_digest(digest)
        return self._directory / digest[:2] / digest

    def _sweep(self) -> None:
        for path in self._directory.glob(f"*/{_TEMPORARY}*"):
            # Another process may sweep at the same time.
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    path.unlink()


def _write_whole(path: Path, parts: tuple[bytes, ...]) -> None:
    """Write a file that is either absent or complete, whenever the process dies."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=_TEMPORARY)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _is_valid(path: Path, digest: str) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == digest
    except FileNotFoundError:
        return False


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _mapped(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        msg = f"The blob store can't use {path}: {error.strerror or error}."
        raise Unavailable(msg, code="blob_store_unavailable") from error
