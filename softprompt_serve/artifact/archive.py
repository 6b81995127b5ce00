"""Read a zip of a PEFT adapter, or a bundle, in memory; nothing is ever written to disk from it."""

from __future__ import annotations

import io
import stat
import zipfile
import zlib
from pathlib import PurePosixPath, PureWindowsPath
from typing import Final, NoReturn

from softprompt_serve.errors import BadRequest

MAX_ENTRIES: Final = 64
_ENCRYPTED: Final = 0x1
# Other methods are rare in practice and unpack to far more bytes for each one stored.
_METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
# What zipfile raises on damaged bytes, offsets that point outside of the file included.
_BROKEN: Final = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)
_JUNK_FOLDER: Final = "__MACOSX"
# Before each entry of a zip's directory.
_ENTRY: Final = b"PK\x01\x02"
# Trained tensors hardly shrink; a megabyte of zeros is deflated to a thousandth.
MAX_RATIO: Final = 100
_SMALL_BYTES: Final = 1024 * 1024


def looks_zipped(data: bytes) -> bool:
    """Whether the bytes are a zip; byte 8 tells it from a safetensors header of that length."""
    return data.startswith((b"PK\x03\x04", b"PK\x05\x06")) and data[8:9] != b"{"


class Archive:
    """The checked members of a zip, read one at a time.

    Attributes:
        total_bytes: what all entries say that they have once unpacked.

    Args:
        data: the zip.
        max_bytes: most bytes of all entries once unpacked.
        max_entries: most entries, folders included.

    Raises:
        BadRequest: ``code="artifact_bad_zip"``: broken, encrypted, too many entries, a path that
            leaves the archive, a link or device, a name twice, too many bytes once unpacked, or
            a large entry that unpacks to more than ``MAX_RATIO`` times its bytes.
    """

    def __init__(self, data: bytes, max_bytes: int, *, max_entries: int = MAX_ENTRIES) -> None:
        # Counted first: the reader makes an object of each, whatever their number.
        if (count := data.count(_ENTRY)) > max_entries:
            _refuse(f"The zip has {count} entries; at most {max_entries} are accepted.")
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
            entries = self._zip.infolist()
        except _BROKEN as error:
            _refuse(f"The zip can't be read: {error}.", error)
        self.total_bytes = sum(entry.file_size for entry in entries)
        if self.total_bytes > max_bytes:
            _refuse(
                f"The zip unpacks to {self.total_bytes} bytes; at most {max_bytes} are accepted."
            )
        for entry in entries:
            _check_entry(entry)
        files = [entry for entry in entries if not entry.is_dir()]
        self._files = {
            entry.filename: entry
            for entry in files
            if PurePosixPath(entry.filename).parts[0] != _JUNK_FOLDER
        }
        if len({entry.filename for entry in files}) != len(files):
            _refuse("The zip holds the same name twice.")

    @property
    def names(self) -> list[str]:
        """Paths of the files within the zip."""
        return list(self._files)

    def read(self, name: str, *, max_bytes: int | None = None) -> bytes:
        """The bytes of one file, which may say that it has ``max_bytes`` at most.

        Raises:
            BadRequest: ``code="artifact_bad_zip"`` if it is damaged, too long or not as long as it
                says.
        """
        entry = self._files[name]
        if max_bytes is not None and entry.file_size > max_bytes:
            _refuse(
                f"{name} in the zip has {entry.file_size} bytes; at most {max_bytes} are accepted."
            )
        try:
            with self._zip.open(entry) as file:
                data = file.read(entry.file_size + 1)
        except _BROKEN as error:
            _refuse(f"{name} in the zip can't be unpacked: {error}.", error)
        if len(data) != entry.file_size:
            _refuse(f"{name} in the zip is not as long as it says.")
        return data


def _check_entry(entry: zipfile.ZipInfo) -> None:
    name = entry.orig_filename
    path = PurePosixPath(name)
    if (
        not path.parts
        or path.is_absolute()
        or ".." in path.parts
        or "\\" in name
        or "\x00" in name
        or PureWindowsPath(name).drive
    ):
        _refuse(f"The zip holds the path {name!r}; expected paths inside the archive.")
    if entry.flag_bits & _ENCRYPTED:
        _refuse(f"{name} in the zip is encrypted; expected a zip without a password.")
    if entry.compress_type not in _METHODS:
        _refuse(f"{name} in the zip is compressed by method {entry.compress_type}; use deflate.")
    if entry.file_size > max(_SMALL_BYTES, MAX_RATIO * entry.compress_size):
        _refuse(
            f"{name} in the zip unpacks from {entry.compress_size} to {entry.file_size} bytes; at "
            f"most {MAX_RATIO} times as many are accepted."
        )
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        _refuse(f"{name} in the zip is a link or device; expected plain files.")


def _refuse(message: str, cause: Exception | None = None) -> NoReturn:
    raise BadRequest(message, code="artifact_bad_zip", param="tensor") from cause
