"""Opens what a service stands on, and ties it together: the one place where parts meet."""

from __future__ import annotations

import os
import socket
import uuid
from functools import partial
from typing import TYPE_CHECKING

from softprompt_serve.registry.access import AccessTokens
from softprompt_serve.registry.answers import Answers
from softprompt_serve.registry.feed import Feed
from softprompt_serve.registry.leases import Leases
from softprompt_serve.registry.replicas import Replicas, Serving
from softprompt_serve.registry.rollouts import Rollouts
from softprompt_serve.registry.tallies import Tallies
from softprompt_serve.rollout.cost import Prices
from softprompt_serve.rollout.tally import Tallier
from softprompt_serve.router.ask import Labels
from softprompt_serve.server.controller import Controller, Pace
from softprompt_serve.server.door import Used
from softprompt_serve.server.healing import Healing
from softprompt_serve.server.judging import Judge
from softprompt_serve.server.presence import Presence
from softprompt_serve.server.promotion import grant
from softprompt_serve.server.remembering import Remembering
from softprompt_serve.server.retention import Tidying
from softprompt_serve.server.service import Service
from softprompt_serve.server.token_uses import TokenUses
from softprompt_serve.shadow.capture import Capture
from softprompt_serve.telemetry.events import Applied, Feedback, RequestEvent

if TYPE_CHECKING:
    from softprompt_serve.registry.catalog import Catalogue
    from softprompt_serve.registry.snapshot import Snapshot
    from softprompt_serve.registry.store import Blobs
    from softprompt_serve.server.residency import Residency
    from softprompt_serve.server.served import Served
    from softprompt_serve.settings import Settings


def following(
    settings: Settings, catalogue: Catalogue, store: Blobs, residency: Residency, served: Served
) -> Service:
    """A service, the feed that keeps it up to date, and what runs beside it; not started yet."""

    async def apply(snapshot: Snapshot) -> None:
        await service.apply(snapshot)

    names = sorted(served.names)
    labels, prices, database = Labels.of(settings), Prices.of(settings, names), catalogue.database
    service = Service(
        settings=settings,
        catalogue=catalogue,
        store=store,
        residency=residency,
        served=served,
        feed=Feed(catalogue, apply, settings.poll_seconds),
        rollouts=Rollouts(
            database, labels, priced=prices.complete, guarded=settings.promotion_gates == "enforce"
        ),
        replicas=Replicas(database),
        leases=Leases(database),
        tallies=Tallies(database),
        labels=labels,
        prices=prices,
        replica=uuid.uuid4().hex[:12],
        capture=Capture(settings.capture_pairs) if settings.capture_content else None,
    )
    residency.tell = service.events.emit
    presence = Presence(
        service.replicas,
        service.replica,
        replica_name(settings),
        lambda: serving_now(service),
        settings.heartbeat_seconds,
    )
    service.events.listen(Applied, lambda _: presence.report())
    tallier = Tallier(prices)
    service.events.listen(RequestEvent, tallier)
    service.events.listen(Feedback, tallier.reacted)
    if settings.feedback_responses:
        answers = Answers(database, settings.feedback_responses)
        service.remembering = Remembering(answers, service.events.emit)
        service.events.listen(RequestEvent, service.remembering)
        service.companions.append(service.remembering)
    uses = TokenUses(AccessTokens(database))
    service.events.listen(Used, uses)
    controller = Controller(
        judge=Judge(service.rollouts, service.tallies, labels.all_cohorts, partial(grant, service)),
        replicas=service.replicas,
        leases=service.leases,
        tallies=service.tallies,
        tallier=tallier,
        ledgers=[service.ledger],
        snapshot=lambda: service.snapshot,
        changed=service.feed.refresh,
        tell=service.events.emit,
        replica=service.replica,
        pace=Pace(
            every=settings.controller_seconds,
            lease=settings.controller_lease_seconds,
            alive=settings.replica_ttl_seconds,
        ),
    )
    service.companions += [presence, uses, Healing(service), controller, Tidying(service)]
    return service


def replica_name(settings: Settings) -> str:
    """What people call this replica: as the settings say, else host and process."""
    return settings.replica_name or f"{socket.gethostname()}/{os.getpid()}"


def serving_now(service: Service) -> tuple[int, dict[str, Serving]]:
    """The revision that this replica serves, and what it serves of each rollout."""
    rollouts = {
        prompt.name: Serving(
            prompt.rollout.generation,
            tuple(sorted(v.version for v in prompt.serving() if service.residency.is_resident(v))),
        )
        for prompt in service.snapshot.prompts.values()
        if prompt.rollout is not None
    }
    return service.snapshot.revision, rollouts
