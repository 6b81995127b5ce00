"""From an upload's parts to an artifact."""

from __future__ import annotations

from typing import TYPE_CHECKING

from softprompt_serve.artifact import base, hard, soft_from_bytes
from softprompt_serve.errors import BadRequest

if TYPE_CHECKING:
    from softprompt_serve.artifact import Artifact, Limits


def read_artifact(
    kind: str | None, data: bytes | None, filename: str | None, text: str | None, limits: Limits
) -> Artifact:
    """The artifact that an upload's parts make; ``kind`` is inferred where it is not given.

    Raises:
        BadRequest: parts that don't belong together, or an artifact that can't be accepted.
    """
    inferred = "soft" if data is not None else "hard" if text is not None else None
    match kind or inferred:
        case "soft" if data is not None:
            return soft_from_bytes(data, filename=filename, limits=limits, text=text)
        case "hard" if data is None and text is not None:
            return hard(text, limits)
        case "base" if data is None and text is None:
            return base()
        case None:
            msg = "Send `tensor` for a soft version, `text` for a hard one, or kind=base."
        case wanted:
            msg = (
                f"kind={wanted} does not go with what was sent: soft needs `tensor`, "
                "hard needs `text` alone, base needs neither."
            )
    raise BadRequest(msg, code="invalid_upload", param="kind")
