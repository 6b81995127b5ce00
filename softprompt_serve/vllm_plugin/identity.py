"""Who the served base model is: name, revision and fingerprints that records are compared with."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softprompt_serve.release.records import BaseModelIdentity

if TYPE_CHECKING:
    from collections.abc import Collection

    from softprompt_serve.settings import Settings

logger = logging.getLogger(__name__)

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")
_CHUNK_BYTES = 1 << 20


def identify(model: Any, names: Collection[str], settings: Settings) -> BaseModelIdentity:
    """Read what can be read of the model that vLLM has loaded; unknown stays None.

    Args:
        model: vLLM's ``ModelConfig``.
        names: names under which it is served; the first counts.
        settings: may state the revision.
    """
    folder = _folder(model)
    return BaseModelIdentity(
        name=_name(model, names),
        revision=settings.base_model_revision or model.revision,
        fingerprint=None if folder is None else weights_fingerprint(folder),
        tokenizer_fingerprint=None if folder is None else tokenizer_fingerprint(folder),
        chat_template_sha256=None if folder is None else chat_template_hash(folder),
    )


def _name(model: Any, names: Collection[str]) -> str:
    """The served name, unless it is just the path; then the path's last component."""
    name = min(names) if names else str(model.model)
    return name if not Path(name).is_absolute() else Path(name).name


def _folder(model: Any) -> Path | None:
    path = Path(model.model)
    if path.is_dir():
        return path
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - only for models from a hub

    try:
        found = snapshot_download(model.model, revision=model.revision, local_files_only=True)
    except (OSError, ValueError) as error:
        logger.warning("Can't find the model's files, so it has no fingerprint: %s", error)
        return None
    return Path(found)


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
