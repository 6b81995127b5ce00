"""Who the served base model is: name, revision and fingerprints that records are compared with."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softprompt_serve.release.fingerprints import (
    chat_template_hash,
    tokenizer_fingerprint,
    weights_fingerprint,
)
from softprompt_serve.release.records import BaseModelIdentity

if TYPE_CHECKING:
    from collections.abc import Collection

    from softprompt_serve.settings import Settings

logger = logging.getLogger(__name__)


def identify(
    model: Any, names: Collection[str], settings: Settings, *, chat_template: str | None = None
) -> BaseModelIdentity:
    """Read what can be read of the model that vLLM has loaded; unknown stays None.

    Args:
        model: vLLM's ``ModelConfig``.
        names: names under which it is served; the first counts.
        settings: may state the revision.
        chat_template: text that replaces the model's own (``--chat-template``), or None.
    """
    folder = _folder(model)
    return BaseModelIdentity(
        name=_name(model, names),
        revision=settings.base_model_revision or model.revision,
        fingerprint=None if folder is None else weights_fingerprint(folder),
        tokenizer_fingerprint=None if folder is None else tokenizer_fingerprint(folder),
        chat_template_sha256=_template_hash(folder, chat_template),
    )


def _template_hash(folder: Path | None, given: str | None) -> str | None:
    if given is not None:
        return hashlib.sha256(given.encode()).hexdigest()
    return None if folder is None else chat_template_hash(folder)


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
