"""What a bearer may do: scopes, and the prompts they hold for. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, get_args

from softprompt_serve.errors import Forbidden

Scope = Literal["admin", "publisher", "operator", "reader", "feedback", "caller"]

SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)

IMPLIED: Final[dict[Scope, frozenset[Scope]]] = {
    "admin": frozenset(SCOPES),
    "publisher": frozenset({"publisher", "reader"}),
    "operator": frozenset({"operator", "reader"}),
    "reader": frozenset({"reader"}),
    "feedback": frozenset({"feedback"}),
    "caller": frozenset({"caller"}),
}
"""What each scope includes. Who publishes can't put a version before users, and the reverse."""

BASE: Final = "@base"
"""Stands for the plain base model among a caller's prompts; no prompt can be called that."""

PATTERN: Final = r"^([a-z0-9*][a-z0-9._*-]{0,62}|@base)$"
"""A prompt's name in which ``*`` stands for anything, or :data:`BASE`."""


_NOTHING: Final = r"(?!)"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a bearer may do.

    Attributes:
        name: the token's name, as the audit has it; None for the one token of the settings.
        scopes: with all that they include.
        prompts: patterns of the prompts that this holds for; empty for all prompts, and the base
            model.
        id: names the token in the catalogue; "" if it is not kept there.
        guessable: whether the token is one that a person chose, and short.
    """

    name: str | None
    scopes: frozenset[Scope]
    prompts: tuple[str, ...] = ()
    id: str = ""
    guessable: bool = False

    @classmethod
    def of(
        cls, name: str | None, scopes: tuple[Scope, ...], prompts: tuple[str, ...] = ()
    ) -> Grant:
        """With what the scopes include."""
        return cls(name, including(scopes), prompts)

    @property
    def bound(self) -> bool:
        """Whether it holds for some prompts alone."""
        return bool(self.prompts)

    def may(self, scope: Scope) -> bool:
        """Whether it has a scope."""
        return scope in self.scopes

    def covers(self, prompt: str) -> bool:
        """Whether it holds for a prompt, whether that exists or not."""
        return not self.prompts or _matching(self.prompts).fullmatch(prompt) is not None

    @property
    def covers_base(self) -> bool:
        """Whether it holds for the plain base model."""
        return not self.prompts or BASE in self.prompts

    def check_prompt(self, prompt: str | None) -> None:
        """Refuse a prompt that this does not hold for; None stands for all prompts at once.

        Decided by the name alone, so that nobody learns from it which prompts exist.

        Raises:
            Forbidden: ``token_prompts``.
        """
        if prompt is None and self.bound:
            msg = f"This token is for the prompts {self._named}; name one of them."
            raise Forbidden(msg, code="token_prompts", param="prompt")
        if prompt is not None and not self.covers(prompt):
            msg = f"This token is for the prompts {self._named}, and `{prompt}` is none of them."
            raise Forbidden(msg, code="token_prompts", param="prompt")

    def signs(self, claimed: str | None, most: int = 128) -> str | None:
        """Who the audit says it was: the token's name, then what the caller calls itself."""
        if self.name is None:
            return claimed
        return self.name if not claimed else f"{self.name}/{claimed}"[:most]

    @property
    def _named(self) -> str:
        return ", ".join(f"`{pattern}`" for pattern in self.prompts)


def including(scopes: tuple[Scope, ...]) -> frozenset[Scope]:
    """All that some scopes include."""
    return frozenset[Scope]().union(*(IMPLIED[scope] for scope in scopes))


@lru_cache(maxsize=4096)
def _matching(patterns: tuple[str, ...]) -> re.Pattern[str]:
    named = [re.escape(p).replace(r"\*", ".*") for p in patterns if p != BASE]
    return re.compile("|".join(named) if named else _NOTHING)


ADMIN: Final = Grant.of(None, ("admin",))
"""The one token of the settings or of ``SOFTPROMPT_HOME``."""

FEEDBACK: Final = Grant.of(None, ("feedback",))
"""``SOFTPROMPT_FEEDBACK_TOKEN``."""

NOBODY: Final = Grant(None, frozenset())
"""Who has shown nothing."""
