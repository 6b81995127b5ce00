"""What a prompt's page shows, read as the admin API reads it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from softprompt_serve.access.scopes import ADMIN
from softprompt_serve.console.arms import side_by_side
from softprompt_serve.console.figures import segments, tones_of
from softprompt_serve.console.notes import Notes
from softprompt_serve.rollout.tally import REQUESTS
from softprompt_serve.server import admin, rolling, rollouts, shadow
from softprompt_serve.server.rollout_shapes import RolloutOut
from softprompt_serve.server.schemas import PromptOut

if TYPE_CHECKING:
    from collections.abc import Mapping

    from softprompt_serve.console.arms import Arm
    from softprompt_serve.console.figures import Segment
    from softprompt_serve.registry.tallies import Tally
    from softprompt_serve.server.rollout_shapes import StateOut
    from softprompt_serve.server.schemas import AuditOut, VersionOut
    from softprompt_serve.server.service import Service
    from softprompt_serve.server.shadow_shapes import ShadowOut

_CHANGES: Final = 12
_STATES: Final = 12


@dataclass(frozen=True, slots=True)
class PromptPage:
    """Everything about one prompt; None where that can't be read now.

    Attributes:
        versions: the newest first.
        tones: a colour for each version.
        can: the changes that make sense now: ``promote``, ``pause``, ``resume``, ``rollback``.
    """

    prompt: PromptOut
    versions: list[VersionOut]
    rollout: RolloutOut
    tones: Mapping[str, int]
    bar: list[Segment]
    arms: list[Arm]
    shadow: ShadowOut | None
    history: list[StateOut] | None
    audit: list[AuditOut] | None
    can: frozenset[str]
    notes: list[str]


async def prompt_page(service: Service, name: str) -> PromptPage:
    """Read one prompt.

    Raises:
        NotFound: ``prompt_not_found``.
    """
    notes, prompt = Notes(), PromptOut.of(service, service.find_prompt(name))
    seen = await rolling.look(service, name)
    rollout = RolloutOut.of(name, seen.view.rollout, seen)
    notes.add(rollout.note)
    for version, why in rollout.unverified.items():
        instead = f"{rollout.stand_in} answers" if rollout.stand_in else "nobody answers"
        notes.add(
            f"{version} is unverified on this base model, and {instead} for it: it was {why}."
        )
    tallies: list[Tally] | None = None
    if rollout.epoch:
        reading = asyncio.to_thread(service.tallies.read, name, REQUESTS, rollout.epoch)
        tallies = await notes.or_none(reading)
    history = await notes.or_none(rollouts.history(name, service, _STATES))
    changes = await notes.or_none(admin.audit(service, ADMIN, name, _CHANGES))
    tones = tones_of(
        [version.version for version in prompt.versions], rollout.production, rollout.candidate
    )
    return PromptPage(
        prompt=prompt,
        versions=prompt.versions[::-1],
        rollout=rollout,
        tones=tones,
        bar=segments(rollout.weights, tones=tones),
        arms=side_by_side(
            rollout.weights,
            _roles(rollout),
            tallies or [],
            {version.version: version.record for version in prompt.versions},
        ),
        shadow=await notes.or_none(shadow.shadow_of(name, service)),
        history=None if history is None else history.data,
        audit=None if changes is None else changes.data,
        can=possible(rollout),
        notes=notes.said,
    )


def _roles(rollout: RolloutOut) -> dict[str, str]:
    named = {"candidate": rollout.candidate, "production": rollout.production}
    return {version: role for role, version in named.items() if version is not None}


def possible(rollout: RolloutOut) -> frozenset[str]:
    """The changes that make sense now; whether they can be made, the catalogue says."""
    found = set()
    if rollout.candidate is not None:
        found.add("promote")
    if rollout.spec is not None and rollout.spec.steps:
        if rollout.state in {"pending", "progressing"}:
            found.add("pause")
        if rollout.state == "paused":
            found.add("resume")
    if rollout.generation and rollout.state != "rolled_back":
        found.add("rollback")
    return frozenset(found)
