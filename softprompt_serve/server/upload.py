"""From an upload's parts to an artifact."""

from __future__ import annotations

from typing import TYPE_CHECKING

from softprompt_serve.artifact import base, hard, learned_from_bytes
from softprompt_serve.errors import BadRequest, Conflict

if TYPE_CHECKING:
    from softprompt_serve.artifact import Artifact, Limits


def read_artifact(
    kind: str | None,
    data: bytes | None,
    filename: str | None,
    text: str | None,
    limits: Limits,
    *,
    digest: str | None = None,
) -> Artifact:
    """The artifact that an upload's parts make; ``kind`` is inferred where it is not given.

    Raises:
        BadRequest: parts that don't belong together, or an artifact that can't be accepted.
        Conflict: ``digest_mismatch``: its digest is not the one that is expected.
    """
    artifact = _read(kind, data, filename, text, limits)
    found = artifact.content.digest
    if digest not in {None, found}:
        msg = f"The content has the digest {found}; expected was {digest}. Nothing was imported."
        raise Conflict(msg, code="digest_mismatch", param="digest")
    return artifact


def _read(
    kind: str | None, data: bytes | None, filename: str | None, text: str | None, limits: Limits
) -> Artifact:
    match kind:
        case None | "soft" | "prefix" if data is not None:
            artifact = learned_from_bytes(data, filename=filename, limits=limits, text=text)
            found = artifact.content.kind
            if kind in {None, found}:
                return artifact
            msg = (
                f"kind={kind} does not go with what was sent: the tensor is that of a {found} one."
            )
        case None | "hard" if data is None and text is not None:
            return hard(text, limits)
        case "base" if data is None and text is None:
            return base()
        case None:
            msg = (
                "Send `tensor` for a soft version or a prefix, `text` for a hard one, or kind=base."
            )
        case _:
            msg = (
                f"kind={kind} does not go with what was sent: soft and prefix need `tensor`, "
                "hard needs `text` alone, base needs neither."
            )
    raise BadRequest(msg, code="invalid_upload", param="kind")
