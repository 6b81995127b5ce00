"""What this server serves, fixed at start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from softprompt_serve.bank.slots import rows_of
from softprompt_serve.errors import BadRequest, Conflict
from softprompt_serve.release.drift import Prints, drift
from softprompt_serve.router.ask import OTHER

if TYPE_CHECKING:
    from softprompt_serve.artifact import Limits
    from softprompt_serve.registry.snapshot import Version
    from softprompt_serve.release.records import BaseModelIdentity, ReleaseRecord


@dataclass(frozen=True, slots=True)
class Served:
    """What this server serves, fixed at start.

    Attributes:
        names: model names under which the base answers; no prompt may take one.
        identity: name, revision and fingerprints of the base model.
        limits: what an artifact must fit.
        soft_refused: why the served model gets no soft versions, or None.
        prefix_refused: why it gets no prefixes, or None.
        siblings: whether other API servers share this engine.
    """

    names: frozenset[str]
    identity: BaseModelIdentity
    limits: Limits
    soft_refused: str | None = None
    prefix_refused: str | None = None
    siblings: bool = False

    def fits(self, record: ReleaseRecord) -> Prints | None:
        """The served base model, if the record of a version that comes does not contradict it."""
        on = Prints.of(self.identity)
        return (
            on if drift(record.to_json(), (), self.identity) is None and any(on.parts()) else None
        )

    def rows_of(self, version: Version) -> int:
        """Rows of the bank that a learned version takes; 0 for others."""
        kv, hidden = self.limits.kv, self.limits.hidden_size
        if version.kind != "prefix" or kv is None or hidden is None:
            return version.virtual_tokens
        return rows_of(kv.of(version.virtual_tokens), hidden)

    def check_kind(self, kind: str) -> None:
        """Refuse soft versions on a model that gets none, and prefixes likewise.

        Raises:
            BadRequest: ``architecture_not_verified`` or ``prefix_not_served``.
        """
        if kind == "soft" and self.soft_refused is not None:
            raise BadRequest(self.soft_refused, code="architecture_not_verified", param="model")
        if kind == "prefix" and self.prefix_refused is not None:
            raise BadRequest(self.prefix_refused, code="prefix_not_served", param="model")

    def check_name(self, prompt: str) -> None:
        """Refuse names for prompts that mean something else here.

        Raises:
            Conflict: ``name_is_base_model``.
            BadRequest: ``invalid_name``.
        """
        if prompt in self.names:
            msg = f"`{prompt}` is the base model's name here; choose another."
            raise Conflict(msg, code="name_is_base_model", param="name")
        if prompt == OTHER:
            msg = (
                f"`{OTHER}` is what metrics call all that has no series of its own; choose another."
            )
            raise BadRequest(msg, code="invalid_name", param="name")
