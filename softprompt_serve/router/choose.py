"""Snapshot + what was asked for → :class:`Decision`. Pure: no I/O, no locks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from softprompt_serve.errors import NotFound, Unavailable
from softprompt_serve.registry.snapshot import PRODUCTION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from softprompt_serve.registry.snapshot import Snapshot, Version

Reason = Literal["production", "pinned", "alias"]


@dataclass(frozen=True, slots=True)
class Decision:
    """Which version answers a request, and why.

    Attributes:
        version: what answers.
        reason: ``production`` (the prompt's own name was asked for), ``pinned`` (a version was
            named) or ``alias`` (an alias was).
        arm: the selector that was followed: the version's or the alias's name.
        generation: the catalogue revision on which the choice was made.
    """

    version: Version
    reason: Reason
    arm: str
    generation: int


def split_model(model: str) -> tuple[str, str | None]:
    """``support@v2`` → ``("support", "v2")``; ``support`` → ``("support", None)``."""
    name, at, selector = model.partition("@")
    return name, selector if at else None


def names_prompt(snapshot: Snapshot, model: str) -> bool:
    """Whether ``model`` names a prompt of ours, with or without a selector that exists."""
    return split_model(model)[0] in snapshot.prompts


def choose(snapshot: Snapshot, model: str, pinned: str | None = None) -> Decision:
    """Decide which version answers for ``model``.

    Args:
        snapshot: the catalogue.
        model: ``prompt`` or ``prompt@selector``.
        pinned: a selector from the ``x-softprompt-version`` header, or None.

    Raises:
        NotFound: ``prompt_not_found``, ``version_not_found`` or ``no_production_version``.
        Unavailable: ``version_unloaded`` if the version was unloaded on purpose.
    """
    name, selector = split_model(model)
    prompt = snapshot.prompt(name)
    if prompt is None:
        msg = f"The prompt `{name}` does not exist."
        raise NotFound(msg, code="prompt_not_found", param="model")
    if pinned is not None and selector is not None and prompt.find(pinned) != prompt.find(selector):
        msg = f"`{model}` and x-softprompt-version `{pinned}` name different versions."
        raise NotFound(msg, code="version_not_found", param="x-softprompt-version")
    asked = selector if pinned is None else pinned
    arm = PRODUCTION if asked is None else asked
    version = prompt.find(arm)
    if version is None:
        raise _unknown(name, arm, asked=asked is not None)
    if not version.wanted:
        msg = f"`{version.label}` is unloaded; load it before sending it traffic."
        raise Unavailable(msg, code="version_unloaded", param="model", retry_after=5)
    return Decision(version, _reason(asked, prompt.aliases), arm, snapshot.revision)


def _reason(asked: str | None, aliases: Mapping[str, str]) -> Reason:
    if asked is None:
        return "production"
    return "alias" if asked in aliases else "pinned"


def _unknown(name: str, arm: str, *, asked: bool) -> NotFound:
    if asked:
        msg = f"The prompt `{name}` has no version or alias `{arm}`."
        return NotFound(msg, code="version_not_found", param="model")
    msg = (
        f"The prompt `{name}` has no `{PRODUCTION}` alias yet; ask for `{name}@VERSION` "
        f"or set the alias."
    )
    return NotFound(msg, code="no_production_version", param="model")
