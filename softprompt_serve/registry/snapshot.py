"""The catalogue as one immutable value, read on the request path without I/O.

A :class:`Snapshot` is built by ``feed.py`` after each revision and replaced in one assignment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from softprompt_serve.access.tokens import NO_TOKENS, Keyring
from softprompt_serve.artifact.content import LEARNED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from softprompt_serve.artifact.content import Kind
    from softprompt_serve.release.drift import Acceptance
    from softprompt_serve.rollout.spec import RolloutSpec
    from softprompt_serve.router.plan import Plan

PRODUCTION = "production"
NOBODY = "-"
"""Stands for no version, where a share of the traffic is refused; no version can be named so."""

RolloutState = Literal["static", "pending", "progressing", "paused", "promoted", "rolled_back"]


@dataclass(frozen=True, slots=True)
class Version:
    """An immutable thing that can answer for a prompt.

    Attributes:
        prompt: the prompt's name, such as ``support``.
        version: its name within the prompt, such as ``v2``.
        digest: SHA-256 (hex) over the canonical content; see ``artifact/content.py``.
        kind: ``soft`` (rows before the input's), ``prefix`` (keys and values before every layer's),
            ``hard`` (a text) or ``base`` (nothing added).
        virtual_tokens: n, the positions that the tensor takes; 0 unless learned.
        hidden_size: columns of the tensor; 0 unless soft.
        dtype: the stored tensor's dtype (``float32``, ``float16``, ``bfloat16``) or None.
        text: the text that a hard version adds, or that a learned one adds after its tensor.
        wanted: whether the version should be resident and answer; false after an unload.
        created_at: RFC 3339, UTC.
        created_by: who imported it, or None.
        record: the release record as plain JSON data.
        accepted: the base models on which it was found good.
    """

    prompt: str
    version: str
    digest: str
    kind: Kind
    virtual_tokens: int
    hidden_size: int
    dtype: str | None
    text: str | None
    wanted: bool
    created_at: str
    created_by: str | None
    record: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    accepted: tuple[Acceptance, ...] = field(default=(), compare=False)

    @property
    def learned(self) -> bool:
        """Whether it is a tensor, which must be resident before it can answer."""
        return self.kind in LEARNED

    @property
    def label(self) -> str:
        """``prompt@version``, the name by which this version can be asked for."""
        return f"{self.prompt}@{self.version}"


@dataclass(frozen=True, slots=True)
class Rollout:
    """How a prompt's traffic is split now, and how it came to that.

    Attributes:
        generation: grows by one with each change; never goes back, also after a removal.
        epoch: the generation at which the comparison of the arms began.
        state: ``static`` without steps; else where the progression stands.
        reason: why it is in that state, for a person.
        spec: the document as resolved, or None after a removal.
        weights: the arms' current weights by version; the progression moves them.
        plan: both, compiled for the request path; None without a document.
        step: index of the current step, or None.
        step_since: Unix time at which that step began, by the database's clock.
        step_base: answers of the candidate before that step began, in this epoch.
        updated_at: RFC 3339, UTC.
        updated_by: who made the last change, or None.
    """

    generation: int
    epoch: int
    state: RolloutState
    reason: str
    spec: RolloutSpec | None
    weights: Mapping[str, int]
    plan: Plan | None
    step: int | None
    step_since: float | None
    step_base: int
    updated_at: str
    updated_by: str | None


@dataclass(frozen=True, slots=True)
class Shield:
    """Versions of a prompt that are not known to be good on the served base model.

    Attributes:
        unverified: why, by version.
        stand_in: the version that answers instead, or None: then requests are refused.
        most: share of the traffic that such a version may have of a split.
    """

    unverified: Mapping[str, str]
    stand_in: str | None = None
    most: float = 0.0


NO_SHIELD = Shield(MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Prompt:
    """A name with its versions, aliases and rollout.

    Attributes:
        versions: by name, in the order of their making.
        aliases: alias → version.
        rollout: how its traffic is split, or None.
        shield: why some versions take no traffic here, where there are any.
    """

    name: str
    versions: Mapping[str, Version]
    aliases: Mapping[str, str]
    rollout: Rollout | None = None
    shield: Shield | None = None

    @property
    def generation(self) -> int:
        """The rollout's; 0 without one."""
        return 0 if self.rollout is None else self.rollout.generation

    def serving(self) -> list[Version]:
        """Versions that the prompt's own name can mean now: production, arms, rules, shadow, stand-in."""
        names = {self.aliases.get(PRODUCTION)}
        if self.rollout is not None and self.rollout.spec is not None:
            names |= self.rollout.spec.versions()
        if self.shield is not None:
            names.add(self.shield.stand_in)
        return [version for name, version in self.versions.items() if name in names]

    def find(self, selector: str) -> Version | None:
        """The version that ``selector``, a version's name or an alias, stands for."""
        return self.versions.get(self.aliases.get(selector, selector))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything the request path knows, as of one catalogue revision."""

    revision: int
    prompts: Mapping[str, Prompt]
    keyring: Keyring = NO_TOKENS

    def prompt(self, name: str) -> Prompt | None:
        """The prompt of that name, or None."""
        return self.prompts.get(name)

    def versions(self) -> list[Version]:
        """Every version of every prompt."""
        return [v for prompt in self.prompts.values() for v in prompt.versions.values()]

    def in_production(self) -> list[Version]:
        """What each prompt's own name can be answered by, as far as it is wanted."""
        found = (version for prompt in self.prompts.values() for version in prompt.serving())
        return [version for version in found if version.wanted]

    def twins(self, version: Version) -> list[Version]:
        """Other versions with the same content, of any prompt."""
        return [
            other
            for other in self.versions()
            if other.digest == version.digest and other.label != version.label
        ]

    def by_urgency(self) -> list[Version]:
        """Wanted versions: production first, then other aliases' versions, then the newest."""
        wanted = [version for version in self.versions() if version.wanted]
        aliased = {p.versions[v].label for p in self.prompts.values() for v in p.aliases.values()}
        production = {version.label for version in self.in_production()}
        newest = sorted(wanted, key=lambda v: v.created_at, reverse=True)
        return sorted(newest, key=lambda v: (v.label not in production, v.label not in aliased))


EMPTY = Snapshot(revision=0, prompts=MappingProxyType({}))
