"""The console's own files, at addresses that name their content, so that browsers may keep them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Final, Self

_TYPES: Final = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "mark.svg": "image/svg+xml",
}
_HASH_CHARS: Final = 12


@dataclass(frozen=True, slots=True)
class Asset:
    """One file.

    Attributes:
        data: its bytes.
        media_type: its ``Content-Type``.
        digest: the beginning of its SHA-256, in its address.
    """

    data: bytes
    media_type: str
    digest: str


@dataclass(frozen=True, slots=True)
class Assets:
    """All of them, by name."""

    by_name: dict[str, Asset]

    @classmethod
    def load(cls) -> Self:
        """Read them from the package."""
        folder = files("softprompt_serve.console") / "static"
        found = {}
        for name, media_type in _TYPES.items():
            data = (folder / name).read_bytes()
            found[name] = Asset(data, media_type, hashlib.sha256(data).hexdigest()[:_HASH_CHARS])
        return cls(found)

    def path(self, name: str) -> str:
        """The address of a file below ``/softprompts/static/``."""
        return f"{self.by_name[name].digest}/{name}"

    def find(self, digest: str, name: str) -> Asset | None:
        """The file at an address, or None."""
        asset = self.by_name.get(name)
        return asset if asset is not None and asset.digest == digest else None
