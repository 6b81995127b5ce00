"""What the admin API does, step by step: one method per verb, no web framework.

Each change is made durable, then loaded, then made visible, in that order, so that a crash
between two steps leaves either the old state or the new one, and no request meets a name that
can't answer.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from softprompt_serve.errors import BadRequest, Conflict, NotFound
from softprompt_serve.registry.snapshot import EMPTY, PRODUCTION
from softprompt_serve.release.records import check_base_model
from softprompt_serve.server.draining import Drains
from softprompt_serve.server.keeping import Keeping, fitting, needed
from softprompt_serve.server.promotion import admitted
from softprompt_serve.server.verifying import Verifying, verify
from softprompt_serve.shadow.ledger import Ledger
from softprompt_serve.telemetry.channel import Events
from softprompt_serve.telemetry.events import Applied, Seen
from softprompt_serve.telemetry.operations import operation

if TYPE_CHECKING:
    from softprompt_serve.artifact import Artifact
    from softprompt_serve.registry.catalog import Catalogue
    from softprompt_serve.registry.feed import Feed
    from softprompt_serve.registry.leases import Leases
    from softprompt_serve.registry.replicas import Replicas
    from softprompt_serve.registry.rollouts import Rollouts
    from softprompt_serve.registry.snapshot import Prompt, Snapshot, Version
    from softprompt_serve.registry.store import Blobs
    from softprompt_serve.registry.tallies import Tallies
    from softprompt_serve.release.records import ReleaseRecord
    from softprompt_serve.rollout.cost import Prices
    from softprompt_serve.router.ask import Labels
    from softprompt_serve.server.background import Companion
    from softprompt_serve.server.promotion import Force
    from softprompt_serve.server.remembering import Remembering
    from softprompt_serve.server.residency import Residency
    from softprompt_serve.server.served import Served
    from softprompt_serve.settings import Settings
    from softprompt_serve.shadow.capture import Capture

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Service:
    """The catalogue, the blobs and the workers, kept in step. Owns the current snapshot.

    Attributes:
        replica: this process's id among those that share the catalogue.
        ledger: what is counted of shadows here.
        capture: what keeps a sample of their pairs, or None while content capture is off.
        remembering: what remembers answers for feedback, or None while that is off.
        snapshot: the catalogue, as this server has applied it.
        traffic: the same as requests meet it: without versions that the served base model has
            made unsafe.
        keeping: what holds versions on the workers.
        companions: started after the feed and stopped before it, in reverse.
    """

    settings: Settings
    catalogue: Catalogue
    store: Blobs
    residency: Residency
    served: Served
    feed: Feed
    rollouts: Rollouts
    replicas: Replicas
    leases: Leases
    tallies: Tallies
    labels: Labels
    prices: Prices
    replica: str
    events: Events = field(default_factory=Events)
    capture: Capture | None = None
    remembering: Remembering | None = None
    snapshot: Snapshot = EMPTY
    traffic: Snapshot = EMPTY
    companions: list[Companion] = field(default_factory=list)
    drains: Drains = field(init=False)
    ledger: Ledger = field(init=False)
    verifying: Verifying = field(init=False)
    keeping: Keeping = field(init=False)

    def __post_init__(self) -> None:
        """The drains work on this very service, and what is counted of shadows is told here."""
        self.drains = Drains(self)
        self.ledger = Ledger(self.events.emit)
        self.verifying = Verifying(self)
        self.keeping = Keeping(self.residency)

    async def start(self) -> None:
        """Restore names and residency from the catalogue, then follow its changes."""
        workers = await self.residency.refresh()
        rows = min((worker.get("capacity_rows", 0) for worker in workers), default=0)
        self.snapshot = await asyncio.to_thread(self.catalogue.snapshot)
        self.traffic = await asyncio.to_thread(self.verifying.look, self.snapshot)
        self.keeping.pin(self.snapshot, self.traffic)
        wanted = fitting(
            self.snapshot.by_urgency(), self.residency.pinned, rows, self.served.rows_of
        )
        await self.keeping.restore(wanted)
        await self.feed.start()
        for companion in self.companions:
            await companion.start()
        self.events.emit(Applied(self.traffic))

    async def apply(self, snapshot: Snapshot) -> None:
        """Follow a change, made here or elsewhere: load what new traffic needs, then switch."""
        self.events.emit(Seen(snapshot))
        traffic = await asyncio.to_thread(self.verifying.look, snapshot)
        await self.keeping.prepare(snapshot, traffic)
        before, self.snapshot, self.traffic = self.snapshot, snapshot, traffic
        self.keeping.pin(snapshot, traffic)
        self.drains.free_unused(before, snapshot)
        self.events.emit(Applied(traffic))

    async def restore_production(self) -> None:
        """Load what `production` names and the workers have lost, as far as the bank has room."""
        await self.keeping.restore(needed(self.snapshot, self.traffic))

    def find_prompt(self, name: str) -> Prompt:
        """The prompt of that name.

        Raises:
            NotFound: ``prompt_not_found``.
        """
        prompt = self.snapshot.prompt(name)
        if prompt is None:
            msg = f"The prompt `{name}` does not exist."
            raise NotFound(msg, code="prompt_not_found")
        return prompt

    def find_version(self, name: str, selector: str) -> Version:
        """The version that a version's name or an alias stands for.

        Raises:
            NotFound: ``prompt_not_found`` or ``version_not_found``.
        """
        version = self.find_prompt(name).find(selector)
        if version is None:
            msg = f"The prompt `{name}` has no version or alias `{selector}`."
            raise NotFound(msg, code="version_not_found")
        return version

    async def import_version(
        self,
        prompt: str,
        version: str | None,
        artifact: Artifact,
        record: ReleaseRecord,
        actor: str | None,
    ) -> tuple[Version, bool]:
        """Store, catalogue and load a version; the second value says whether it is new.

        Raises:
            BadRequest: ``base_model_mismatch``, ``architecture_not_verified`` or ``invalid_name``.
            Conflict: ``version_exists``, ``version_removed`` or ``name_is_base_model``.
            Unavailable: ``catalogue_unavailable``.
        """
        self.served.check_kind(artifact.content.kind)
        self.served.check_name(prompt)
        if not self.settings.allow_base_model_mismatch:
            check_base_model(record, artifact.declared, self.served.identity)
        content = artifact.content
        with operation(self.events.emit, "import", prompt, version or "", actor) as told:
            async with self.drains.blobs:
                await asyncio.to_thread(
                    self.store.put, content.digest, content.header, content.data
                )
                add = partial(self.catalogue.add_version, accepted_on=self.served.fits(record))
                try:
                    added, created = await asyncio.to_thread(
                        add, prompt, version, content, record.to_json(), actor
                    )
                except (BadRequest, Conflict):
                    await asyncio.to_thread(self.drains.forget, content.digest)
                    raise
                # Another replica may just have deleted it, as the content of a version that left.
                if not await asyncio.to_thread(self.store.has, content.digest):
                    await asyncio.to_thread(
                        self.store.put, content.digest, content.header, content.data
                    )
            if added.wanted:  # the same content may have been unloaded on purpose
                await self.keeping.load(added)
            await self.feed.refresh()
            told.update({"version": added.version, "created": created})
        return added, created

    async def set_alias(
        self, prompt: str, alias: str, selector: str, actor: str | None, force: Force | None = None
    ) -> tuple[Version, str | None]:
        """Point an alias at a version that is resident first; returns it and what it was before.

        Raises:
            GatesFailed, NotFound, Conflict, Unavailable: nothing has changed then.
        """
        with operation(self.events.emit, "alias", prompt, alias, actor) as told:
            version = self.find_version(prompt, selector)
            if not version.wanted:
                msg = f"`{version.label}` is unloaded; load it first."
                raise Conflict(msg, code="version_unloaded")
            lease = self.residency.lease(version)
            try:
                await self.residency.ensure(version)
                set_it = partial(self.catalogue.set_alias, prompt, alias, version.version, actor)
                set_to, previous = await admitted(
                    self, prompt, lambda granted: set_it(granted=granted), force
                )
                await self.feed.refresh()
                if force is not None:
                    await verify(self, prompt, version.version, actor, force)
            finally:
                lease.release()
            told.update({"version": set_to.version, "previous": previous or ""})
            if force is not None:
                told["forced"] = force.reason
        return set_to, previous

    async def remove_alias(self, prompt: str, alias: str, actor: str | None) -> None:
        """Forget an alias; requests that named it are answered 404 from now on."""
        with operation(self.events.emit, "alias_remove", prompt, alias, actor):
            await asyncio.to_thread(self.catalogue.remove_alias, prompt, alias, actor)
            await self.feed.refresh()

    async def set_resident(
        self, prompt: str, selector: str, actor: str | None, *, wanted: bool
    ) -> Version:
        """Load a version, or drain and unload it.

        Raises:
            Conflict: ``version_aliased`` on unloading what `production` points at, or
                ``version_in_use`` if requests outlast ``drain_seconds``.
        """
        with operation(self.events.emit, "load" if wanted else "unload", prompt, selector, actor):
            version = self.find_version(prompt, selector)
            if wanted:
                await self.residency.ensure(version)
            elif version == self.find_prompt(prompt).find(PRODUCTION):
                msg = f"`{version.label}` is `{PRODUCTION}`; point the alias elsewhere first."
                raise Conflict(msg, code="version_aliased")
            with self.drains.handling(version):
                changed = await asyncio.to_thread(
                    self.catalogue.set_wanted, prompt, version.version, wanted, actor
                )
                await self.feed.refresh()
                if not wanted:
                    await self.drains.drain(version, within=self.settings.drain_seconds)
        return changed

    async def remove_version(self, prompt: str, version: str, actor: str | None) -> bool:
        """Take a version away: new requests are answered 404, those in flight finish first.

        Returns:
            Whether its rows and its blob are freed already; if requests in flight outlast
            ``drain_seconds``, that happens when the last one ends.

        Raises:
            NotFound, Conflict: ``version_aliased``, and nothing has changed.
        """
        with operation(self.events.emit, "remove", prompt, version, actor):
            removed = self.find_prompt(prompt).versions.get(version)
            if removed is None:
                msg = f"The prompt `{prompt}` has no version `{version}`."
                raise NotFound(msg, code="version_not_found")
            with self.drains.handling(removed):
                await asyncio.to_thread(self.catalogue.remove_version, prompt, version, actor)
                await self.feed.refresh()
            drain = self.drains.begin(removed, forget=True)
            done, _ = await asyncio.wait({drain}, timeout=self.settings.drain_seconds)
            if done:
                drain.result()
        return bool(done)

    async def close(self) -> None:
        """Stop following the catalogue and close it."""
        for companion in reversed(self.companions):
            await companion.stop()
        self.drains.cancel()
        await self.feed.stop()
        await asyncio.to_thread(self.catalogue.close)
