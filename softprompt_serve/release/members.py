"""A bundle's file: a zip that has one form only, so that equal members give equal bytes.

Members are stored, not deflated, in the order of :func:`join`'s argument, at zip's earliest time,
as plain files of mode 0644. What differs from that in any byte is refused: so nothing hides
between, before or behind the members, or in a header that only some readers look at.
"""

from __future__ import annotations

import io
import stat
import zipfile
from typing import TYPE_CHECKING, Final, NoReturn

from softprompt_serve.artifact.archive import Archive
from softprompt_serve.errors import BadRequest, SoftpromptError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_BYTES: Final = 512 * 1024 * 1024
MAX_MEMBERS: Final = 1010
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_UNIX: Final = 3
_ZIP_2_0: Final = 20


def join(members: Mapping[str, bytes]) -> bytes:
    """The file that holds ``members``, by name, in this order."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED, allowZip64=False) as archive:
        for name, data in members.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system = _UNIX
            entry.create_version = entry.extract_version = _ZIP_2_0
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, data)
    return buffer.getvalue()


def split(data: bytes) -> dict[str, bytes]:
    """The members of a file that :func:`join` made, in their order.

    Raises:
        BadRequest: ``code="invalid_bundle"``: no zip, one of other form, or too large.
    """
    if len(data) > MAX_BYTES:
        refuse(f"it has {len(data)} bytes; at most {MAX_BYTES} are accepted")
    try:
        archive = Archive(data, MAX_BYTES, max_entries=MAX_MEMBERS)
        # Members are stored: what says that it has more than the file isn't unpacked to see it.
        own = archive.total_bytes < len(data)
        members = {name: archive.read(name) for name in archive.names} if own else {}
    except SoftpromptError as error:
        refuse(error.message.rstrip("."), error)
    if join(members) != data:
        refuse(
            "its bytes are not those that an export writes: it was packed by something else, or "
            "changed since"
        )
    return members


def refuse(problem: str, cause: Exception | None = None) -> NoReturn:
    """Say why the file is no bundle.

    Raises:
        BadRequest: ``code="invalid_bundle"``.
    """
    msg = f"This is no sound bundle: {problem}."
    raise BadRequest(msg, code="invalid_bundle") from cause
