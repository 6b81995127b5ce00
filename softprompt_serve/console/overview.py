"""What the first page shows: each prompt with its traffic."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from softprompt_serve.console.figures import segments, tones_of
from softprompt_serve.console.notes import Notes
from softprompt_serve.registry.snapshot import PRODUCTION
from softprompt_serve.rollout.gates import OVERALL
from softprompt_serve.rollout.progress import arm_of, follows
from softprompt_serve.rollout.resolve import candidate_of
from softprompt_serve.rollout.tally import REQUESTS
from softprompt_serve.server.rollout_shapes import WHOLE
from softprompt_serve.server.schemas import PromptOut

if TYPE_CHECKING:
    from collections.abc import Mapping

    from softprompt_serve.access.scopes import Grant
    from softprompt_serve.console.figures import Segment
    from softprompt_serve.registry.replicas import Replica
    from softprompt_serve.registry.snapshot import Prompt
    from softprompt_serve.registry.tallies import Tally
    from softprompt_serve.server.schemas import VersionOut
    from softprompt_serve.server.service import Service

PROMPTS: Final = 50
"""On one page."""


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt in the overview.

    Attributes:
        prompt: as the API shows it.
        production: the version in production, or None.
        state, generation: of the rollout; ``none`` and 0 without one.
        bar: the split.
        answers: what was counted in the present comparison, by version; None if that is not known.
        not_resident: versions that the prompt's name can mean and that are not resident here.
        applied: live replicas that follow, and all of them; None if that is not known.
    """

    prompt: PromptOut
    production: VersionOut | None
    state: str
    generation: int
    bar: list[Segment]
    answers: Mapping[str, int] | None
    not_resident: list[str]
    applied: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Overview:
    """The first page.

    Attributes:
        rows: of this page.
        found: how many prompts there are, of those that were looked for.
        page, pages: from 1.
        revision: of the catalogue.
        base_model: the served model's name, or None.
        notes: why something is missing.
    """

    rows: list[Row]
    found: int
    page: int
    pages: int
    revision: int
    base_model: str | None
    notes: list[str]


async def overview(service: Service, find: str, page: int, grant: Grant) -> Overview:
    """Prompts whose name has ``find`` in it, by name, a page of them; those of a grant alone."""
    snapshot, notes = service.snapshot, Notes()
    if not service.feed.healthy:
        notes.add(f"Changes can't be made or seen: {service.feed.error}")
    found = sorted(name for name in snapshot.prompts if find in name and grant.covers(name))
    pages = max(1, -(-len(found) // PROMPTS))
    page = min(page, pages)
    prompts = [snapshot.prompts[name] for name in found[(page - 1) * PROMPTS : page * PROMPTS]]
    read = await notes.or_none(asyncio.to_thread(_counted, service, prompts))
    replicas, tallies = (None, None) if read is None else read
    rows = [_row(service, prompt, replicas, tallies) for prompt in prompts]
    base_model = service.served.identity.name
    return Overview(rows, len(found), page, pages, snapshot.revision, base_model, notes.said)


def _counted(
    service: Service, prompts: list[Prompt]
) -> tuple[list[Replica], dict[str, list[Tally]]]:
    live = service.replicas.live(service.settings.replica_ttl_seconds)
    return live, {
        prompt.name: service.tallies.read(prompt.name, REQUESTS, prompt.rollout.epoch)
        for prompt in prompts
        if prompt.rollout is not None and prompt.rollout.spec is not None
    }


def _row(
    service: Service,
    prompt: Prompt,
    replicas: list[Replica] | None,
    tallies: dict[str, list[Tally]] | None,
) -> Row:
    shown, rollout = PromptOut.of(service, prompt), prompt.rollout
    named = prompt.find(PRODUCTION)
    production = None if named is None else named.version
    spec = None if rollout is None else rollout.spec
    weights = {} if production is None else {production: WHOLE}
    if rollout is not None and spec is not None:
        weights = dict(rollout.weights)
    candidate = None if spec is None else candidate_of(spec, production)
    counted = None if tallies is None else tallies.get(prompt.name, [])
    return Row(
        prompt=shown,
        production=next((v for v in shown.versions if v.version == production), None),
        state="none" if rollout is None or spec is None else rollout.state,
        generation=prompt.generation,
        bar=segments(weights, tones=tones_of(list(weights), production, candidate)),
        answers=None
        if counted is None
        else {version: arm_of(counted, version)[OVERALL].number("requests") for version in weights},
        not_resident=[
            version.version
            for version in prompt.serving()
            if not version.wanted or not service.residency.is_resident(version)
        ],
        applied=None
        if replicas is None
        else (sum(follows(r, prompt.name, rollout) for r in replicas), len(replicas)),
    )
