"""Whether the served base model is one that a version was made for, or accepted on. Pure.

A learned version is fitted to the very weights, tokenizer and chat template it was trained on.
Another base model may do anything with it, and nobody can read the tensor to tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from softprompt_serve.release.verdict import short

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from softprompt_serve.release.records import BaseModelIdentity

How = Literal["imported", "evaluated", "forced"]

PARTS: Final = ("weights", "tokenizer", "chat template")
"""What is fingerprinted of a base model, in the order of :meth:`Prints.parts`."""

_RECORDED: Final = ("base_model_fingerprint", "tokenizer_fingerprint", "chat_template_sha256")


@dataclass(frozen=True, slots=True)
class Prints:
    """Fingerprints of a base model; None is unknown.

    Attributes:
        weights: of the weights.
        tokenizer: of the tokenizer.
        template: of the chat template.
    """

    weights: str | None = None
    tokenizer: str | None = None
    template: str | None = None

    @classmethod
    def of(cls, identity: BaseModelIdentity) -> Prints:
        """Those of a base model."""
        return cls(
            identity.fingerprint, identity.tokenizer_fingerprint, identity.chat_template_sha256
        )

    @classmethod
    def recorded(cls, record: Mapping[str, Any]) -> Prints:
        """Those that a release record names, in plain JSON data."""
        return cls(*(record.get(name) for name in _RECORDED))

    def parts(self) -> tuple[str | None, ...]:
        """In the order of the fields."""
        return self.weights, self.tokenizer, self.template


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A version was found good on a base model.

    Attributes:
        on: the base model's fingerprints.
        how: ``imported`` (it came while that was served, and no record says otherwise),
            ``evaluated`` (it passed its prompt's policy) or ``forced`` (somebody said so).
    """

    on: Prints
    how: How


def drift(
    record: Mapping[str, Any], accepted: Iterable[Acceptance], served: BaseModelIdentity
) -> str | None:
    """Why a learned version is not known to be good on the served base model; None if it is.

    It is good where it was accepted on these very fingerprints. Else each fingerprint that its
    record names, or that was served when it came, must be the served one; what is not known on
    both sides is not compared.

    Args:
        record: its release record, plain JSON data.
        accepted: on what it was accepted.
        served: what is served now.
    """
    now = Prints.of(served)
    accepted = tuple(accepted)
    if any(one.on == now for one in accepted):
        return None
    trained = Prints.recorded(record)
    came = next((one.on for one in accepted if one.how == "imported"), Prints())
    found = []
    parts = zip(PARTS, trained.parts(), came.parts(), now.parts(), strict=True)
    for part, recorded, imported, ours in parts:
        theirs = recorded or imported
        if theirs is not None and ours is not None and theirs != ours:
            made = "trained with" if recorded else "imported on"
            found.append(f"{made} {part} {short(theirs)}, served are {short(ours)}")
    return "; ".join(found) or None
