"""Blobs in an S3-compatible store, and the choice of where blobs are kept.

Region, endpoint and credentials come from the environment that AWS's own tools read
(``AWS_REGION``, ``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, …; a role where none are given).
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from obstore.exceptions import BaseError
from obstore.store import S3Store

from softprompt_serve.errors import BadRequest, Unavailable
from softprompt_serve.registry.store import (
    Blobs,
    BlobStore,
    check_digest,
    content_of,
    is_sound,
    parts_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from obstore.store import ClientConfig, RetryConfig

    from softprompt_serve.settings import Settings

# A store that is gone or stalled is an error within seconds; a large blob may take longer.
_CLIENT: Final[ClientConfig] = {
    "connect_timeout": timedelta(seconds=2),
    "read_timeout": timedelta(seconds=4),
    "timeout": timedelta(seconds=30),
}
_RETRY: Final[RetryConfig] = {
    "max_retries": 2,
    "retry_timeout": timedelta(seconds=4),
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=1),
        "base": 2,
    },
}
# At once, of 5 MB each: a slow line must not stall them all.
_UPLOADS: Final = 2
_NO_BUCKET: Final = "NoSuchBucket"


def open_blobs(settings: Settings) -> Blobs:
    """The blob store that ``SOFTPROMPT_BLOB_URL`` names; the home's ``blobs`` if unset.

    Raises:
        BadRequest: ``code="invalid_setting"``: not such a URL.
        Unavailable: ``code="blob_store_unavailable"``: a directory that can't be made or written.
            An object store isn't asked before it is needed.
    """
    if settings.blob_url is None:
        return BlobStore(settings.home_dir / "blobs")
    url = urlsplit(settings.blob_url)
    if url.scheme == "file":
        return BlobStore(Path(unquote(url.path)))
    return ObjectBlobs(settings.blob_url)


class ObjectBlobs:
    """Blobs in a bucket, as ``<prefix>/<digest[:2]>/<digest>``; for several machines.

    A write is one object, visible when it is whole. Every method raises ``ValueError`` for what is
    no digest.

    Args:
        url: ``s3://BUCKET/PREFIX``; the prefix may be missing.

    Raises:
        BadRequest: ``code="invalid_setting"``.
        Unavailable: ``code="blob_store_unavailable"``, from every method: not to be reached, no
            such bucket, or access denied.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
        if endpoint.startswith("http://") and not _allow_http():
            msg = f"{endpoint} is not encrypted; set AWS_ALLOW_HTTP=true if that is meant."
            raise BadRequest(msg, code="invalid_setting", param="AWS_ENDPOINT_URL")
        try:
            self._store: Any = S3Store.from_url(
                self._url,
                client_options={**_CLIENT, "allow_http": _allow_http()},
                retry_config=_RETRY,
            )
        except (BaseError, ValueError) as error:
            msg = f"The object store {url} can't be set up: {_reason(error)}."
            raise BadRequest(msg, code="invalid_setting", param="SOFTPROMPT_BLOB_URL") from error

    def put(self, digest: str, header: bytes, data: bytes) -> None:
        """Store a content; when this returns, the store has it.

        Raises:
            ValueError: the bytes don't have that digest.
        """
        check_digest(digest)
        blob = b"".join(parts_of(digest, header, data))
        with self._mapped():
            if self._read(digest) != blob:
                self._store.put(_key(digest), blob, max_concurrency=_UPLOADS)

    def get(self, digest: str) -> tuple[bytes, bytes]:
        """The header and data of a digest, read and checked against it.

        Raises:
            Unavailable: ``code="blob_missing"`` or ``"blob_corrupt"``.
        """
        check_digest(digest)
        with self._mapped():
            blob = self._read(digest)
        if blob is None:
            msg = f"The content {digest[:12]} is not in the blob store; import it again."
            raise Unavailable(msg, code="blob_missing", retry_after=None)
        if not is_sound(blob, digest):
            msg = f"The content {digest[:12]} is damaged in {self._url}; import it again."
            raise Unavailable(msg, code="blob_corrupt", retry_after=None)
        return content_of(blob)

    def has(self, digest: str) -> bool:
        """Whether an object is there; only ``get`` says whether it is sound."""
        check_digest(digest)
        with self._mapped():
            try:
                self._store.head(_key(digest))
            except FileNotFoundError:
                return False
            return True

    def delete(self, digest: str) -> None:
        """Remove an object; nothing happens if it isn't there."""
        check_digest(digest)
        with self._mapped():
            self._store.delete(_key(digest))

    def _read(self, digest: str) -> bytes | None:
        try:
            return bytes(self._store.get(_key(digest)).bytes())
        except FileNotFoundError as error:
            if _NO_BUCKET in str(error):
                raise
            return None

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError) as error:
            msg = f"The blob store {self._url} can't be used now: {_reason(error)}."
            raise Unavailable(msg, code="blob_store_unavailable") from error


def _key(digest: str) -> str:
    return f"{digest[:2]}/{digest}"


def _reason(error: Exception) -> str:
    return str(error).split("\n", 1)[0]


def _allow_http() -> bool:
    """What ``AWS_ALLOW_HTTP`` says; the library reads it only if no other option is given."""
    return os.environ.get("AWS_ALLOW_HTTP", "").lower() in {"1", "true", "on", "yes", "y"}
