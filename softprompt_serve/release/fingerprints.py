"""Fingerprints of a model directory: what a release record states and a server compares.

All are None where there is nothing to read.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")
_CHUNK_BYTES = 1 << 20


def weights_fingerprint(folder: Path) -> str | None:
    """SHA-256 over each weight file's name, size, first and last MiB; None without weights.

    A sample, because hashing hundreds of gigabytes would delay each start: the first MiB holds
    the tensors' names and shapes and the first of them, so a re-trained or re-quantised model
    differs. It is no proof against an adversary.
    """
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not files:
        return None
    sha = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        sha.update(f"{path.name}:{size}\n".encode())
        with path.open("rb") as file:
            sha.update(file.read(_CHUNK_BYTES))
            file.seek(max(0, size - _CHUNK_BYTES))
            sha.update(file.read(_CHUNK_BYTES))
    return sha.hexdigest()


def tokenizer_fingerprint(folder: Path) -> str | None:
    """SHA-256 over the tokenizer's vocabulary files; None without any."""
    sha = hashlib.sha256()
    found = [path for name in _TOKENIZER_FILES if (path := folder / name).is_file()]
    for path in found:
        sha.update(path.name.encode() + b"\n" + path.read_bytes())
    return sha.hexdigest() if found else None


def chat_template_hash(folder: Path) -> str | None:
    """SHA-256 of the chat template's text; None without one."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return None
