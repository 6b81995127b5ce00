"""Changes and views of rollouts, step by step: what they need is loaded before they are made."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from softprompt_serve.errors import SoftpromptError, Unavailable
from softprompt_serve.registry.rollouts import View
from softprompt_serve.registry.snapshot import NO_SHIELD, PRODUCTION
from softprompt_serve.server.promotion import admitted
from softprompt_serve.server.verifying import verify
from softprompt_serve.telemetry.operations import operation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from softprompt_serve.registry.moves import Move
    from softprompt_serve.registry.replicas import Replica
    from softprompt_serve.registry.snapshot import Rollout, Shield, Version
    from softprompt_serve.registry.tallies import Tally
    from softprompt_serve.server.promotion import Force
    from softprompt_serve.server.service import Service


@dataclass(frozen=True, slots=True)
class Seen:
    """A rollout as the catalogue and the replicas have it.

    Attributes:
        view: the rollout, with what belongs to it.
        replicas: those that are alive.
        tallies: what they counted of the present comparison.
        note: why it may be out of date, or None.
        shield: which versions get no traffic here.
    """

    view: View
    replicas: list[Replica]
    tallies: list[Tally]
    note: str | None = None
    shield: Shield = NO_SHIELD


async def change(
    service: Service,
    prompt: str,
    move: Move,
    *,
    if_match: int | None,
    actor: str | None,
    force: Force | None = None,
) -> Rollout:
    """Make a change once every version that it sends traffic to is resident here.

    Raises:
        GatesFailed: it would promote a version that may not be; nothing has changed.
        Unavailable: one of them can't be loaded, or the catalogue is down; nothing has changed.
        SoftpromptError: what the move raises; nothing has changed.
    """
    with operation(service.events.emit, move.name, prompt, "", actor) as told:
        await service.feed.refresh()  # the catalogue may know versions that the snapshot does not
        rollouts = service.rollouts
        foreseen = await asyncio.to_thread(rollouts.foresee, prompt, move, if_match=if_match)
        versions = service.find_prompt(prompt).versions
        needed = [versions[name] for name in foreseen.needs if name in versions]
        async with _resident(service, needed):
            made = await _make(service, prompt, move, if_match=if_match, actor=actor, force=force)
        told.update(_about(made, force))
    return made


async def make(
    service: Service, prompt: str, move: Move, *, if_match: int | None, actor: str | None
) -> Rollout:
    """Make a change that sends traffic to no new version; when this returns, requests follow it."""
    with operation(service.events.emit, move.name, prompt, "", actor) as told:
        made = await _make(service, prompt, move, if_match=if_match, actor=actor)
        told.update(_about(made))
    return made


async def _make(
    service: Service,
    prompt: str,
    move: Move,
    *,
    if_match: int | None,
    actor: str | None,
    force: Force | None = None,
) -> Rollout:
    make_it = partial(service.rollouts.make, prompt, move, if_match=if_match, actor=actor)
    rollout, _ = await admitted(service, prompt, lambda granted: make_it(granted=granted), force)
    await service.feed.refresh()
    if force is not None:
        await verify(service, prompt, PRODUCTION, actor, force)
    return rollout


async def remove(
    service: Service, prompt: str, *, if_match: int | None, actor: str | None
) -> Rollout | None:
    """Have no rollout any more; None if there never was one."""
    with operation(service.events.emit, "rollout_remove", prompt, "", actor):
        rollout = await asyncio.to_thread(
            service.rollouts.remove, prompt, if_match=if_match, actor=actor
        )
        await service.feed.refresh()
    return rollout


async def look(service: Service, prompt: str) -> Seen:
    """The rollout as it is everywhere; without the catalogue, as this server last saw it.

    Raises:
        NotFound: ``prompt_not_found``.
    """
    try:
        return await asyncio.to_thread(_read, service, prompt)
    except Unavailable as error:
        known = service.find_prompt(prompt)
        note = f"This is what this server saw last, and nothing is known of others. {error.message}"
        view = View(known.rollout, known.aliases.get(PRODUCTION), None, None)
        return Seen(view, [], [], note, service.verifying.shield(prompt))


def _read(service: Service, prompt: str) -> Seen:
    view = service.rollouts.view(prompt)
    replicas = service.replicas.live(service.settings.replica_ttl_seconds)
    tallies: list[Tally] = []
    if view.rollout is not None and view.rollout.step is not None:
        tallies = service.tallies.read(prompt, "requests", view.rollout.epoch)
    return Seen(view, replicas, tallies, shield=service.verifying.shield(prompt))


@asynccontextmanager
async def _resident(service: Service, versions: list[Version]) -> AsyncIterator[None]:
    """Load versions, and hold them until the end."""
    residency = service.residency
    leases = [residency.lease(version) for version in versions]
    try:
        for version in versions:
            try:
                await residency.ensure(version)
            except Unavailable:
                raise
            except SoftpromptError as error:
                msg = f"{version.label} can't be loaded here: {error.message}"
                raise Unavailable(msg, code="workers_failed", retry_after=None) from error
        yield
    finally:
        for lease in leases:
            lease.release()


def _about(rollout: Rollout, force: Force | None = None) -> dict[str, str | int]:
    """What an operation says of the rollout that it made."""
    weights = ",".join(f"{version}={weight}" for version, weight in rollout.weights.items())
    told = {"generation": rollout.generation, "state": rollout.state, "weights": weights}
    return told if force is None else told | {"forced": force.reason}
