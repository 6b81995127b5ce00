"""What this server serves, fixed at start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from softprompt_serve.errors import BadRequest

if TYPE_CHECKING:
    from softprompt_serve.artifact import Limits
    from softprompt_serve.release.records import BaseModelIdentity


@dataclass(frozen=True, slots=True)
class Served:
    """What this server serves, fixed at start.

    Attributes:
        names: model names under which the base answers; no prompt may take one.
        identity: name, revision and fingerprints of the base model.
        limits: what an artifact must fit.
        soft_refused: why the served model gets no soft versions, or None.
        siblings: whether other API servers share this engine.
    """

    names: frozenset[str]
    identity: BaseModelIdentity
    limits: Limits
    soft_refused: str | None = None
    siblings: bool = False

    def check_kind(self, kind: str) -> None:
        """Refuse soft versions on a model that gets none.

        Raises:
            BadRequest: ``architecture_not_verified``.
        """
        if kind == "soft" and self.soft_refused is not None:
            raise BadRequest(self.soft_refused, code="architecture_not_verified", param="model")
