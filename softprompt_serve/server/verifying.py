"""Which versions are not known to be good on the served base model, and what requests meet instead.

A version that drifted is judged by its prompt's policy on evidence for the base model that is
served now; who passes is accepted on it for good. Until then its traffic is the policy's to give.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from softprompt_serve.errors import NotFound, Unavailable
from softprompt_serve.registry.acceptances import Acceptances
from softprompt_serve.registry.snapshot import NO_SHIELD, Shield
from softprompt_serve.release.drift import Acceptance, Prints, drift
from softprompt_serve.router.shield import shielded
from softprompt_serve.server.promotion import grant
from softprompt_serve.server.verdicts import in_force, judged
from softprompt_serve.telemetry.operations import operation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from softprompt_serve.registry.snapshot import Prompt, Snapshot, Version
    from softprompt_serve.release.drift import How
    from softprompt_serve.server.promotion import Force
    from softprompt_serve.server.service import Service

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Looked:
    """A prompt as it was read, and as requests meet it; ``settled`` unless something was down."""

    prompt: Prompt
    met: Prompt
    shield: Shield
    settled: bool


class Verifying:
    """What requests meet: the catalogue, but for versions that drifted. Owned by a service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._looked: dict[str, _Looked] = {}
        self._enforced = service.settings.promotion_gates == "enforce"

    def look(self, snapshot: Snapshot) -> Snapshot:
        """A snapshot as requests shall meet it. Blocking, where a version has drifted.

        A prompt that has not changed is as it was found before.
        """
        looked = {}
        for name, prompt in snapshot.prompts.items():
            known = self._looked.get(name)
            if known is None or known.prompt is not prompt or not known.settled:
                known = self._look(prompt)
            looked[name] = known
        self._looked = looked
        if all(one.met is one.prompt for one in looked.values()):
            return snapshot
        met = {name: one.met for name, one in looked.items()}
        return replace(snapshot, prompts=MappingProxyType(met))

    def why(self, version: Version) -> str | None:
        """Why a version is not known to be good here; None if it is."""
        return self.shield(version.prompt).unverified.get(version.version)

    def shield(self, prompt: str) -> Shield:
        """What is unverified of a prompt, and who answers instead."""
        known = self._looked.get(prompt)
        return NO_SHIELD if known is None else known.shield

    def _look(self, prompt: Prompt) -> _Looked:
        drifted = self._drifted(prompt)
        if not drifted:
            return _Looked(prompt, prompt, NO_SHIELD, settled=True)
        if not self._enforced:
            shield = Shield(drifted)
            self._say(prompt.name, shield, "It answers all the same, as gates are off.")
            return _Looked(prompt, prompt, shield, settled=True)
        shield, settled = self._judge(prompt, drifted)
        if not shield.unverified:
            return _Looked(prompt, prompt, NO_SHIELD, settled)
        label = f"{prompt.name}@{shield.stand_in}" if shield.stand_in else "Nobody"
        self._say(prompt.name, shield, f"{label} answers for it until an evaluation passes.")
        return _Looked(prompt, shielded(prompt, shield), shield, settled)

    def _drifted(self, prompt: Prompt) -> dict[str, str]:
        served = self._service.served.identity
        return {
            version.version: why
            for version in prompt.versions.values()
            if version.learned
            and (why := drift(version.record, version.accepted, served)) is not None
        }

    def _judge(self, prompt: Prompt, drifted: Mapping[str, str]) -> tuple[Shield, bool]:
        """Accept those that satisfy the policy; the others, and whether all could be judged."""
        unverified, instead, most, settled = dict(drifted), None, 0.0, True
        try:
            policy = in_force(self._service, prompt).policy
            if policy is not None:
                most, found = policy.unverified_max_weight, prompt.find(policy.baseline)
                if found is not None and found.kind == "hard" and found.wanted:
                    instead = found.version
            for name in drifted:
                if self._earned(prompt, prompt.versions[name]):
                    del unverified[name]
        except Unavailable as error:  # what is not known is not trusted
            logger.warning("Versions of %s can't be verified: %s", prompt.name, error.message)
            settled = False
        return Shield(unverified, instead, most), settled

    def _earned(self, prompt: Prompt, version: Version) -> bool:
        """Whether evidence on the served base model satisfies the policy; that is kept for good."""
        if not judged(self._service, prompt, version).verdict.passed:
            return False
        with contextlib.suppress(NotFound):  # it has just been removed
            _accept(self._service, version, "evaluated")
        logger.info("%s passes its policy on the served base model.", version.label)
        return True

    def _say(self, prompt: str, shield: Shield, then: str) -> None:
        """Log what is new."""
        before = self.shield(prompt).unverified
        for name, why in shield.unverified.items():
            if before.get(name) != why:
                logger.warning("%s@%s is unverified: it was %s. %s", prompt, name, why, then)


async def verify(
    service: Service, prompt: str, selector: str, actor: str | None, force: Force | None = None
) -> Version:
    """Accept a version on the served base model, if its policy is satisfied or somebody forces it.

    Raises:
        GatesFailed: it is not, and nobody forces it.
        NotFound, Unavailable: nothing has changed then.
    """
    version = service.find_version(prompt, selector)
    with operation(service.events.emit, "verify", prompt, version.version, actor) as told:
        if service.verifying.why(version) is not None:
            granted = await asyncio.to_thread(grant, service, prompt, version.version, force)
            how: How = "evaluated" if granted.reason is None else "forced"
            await asyncio.to_thread(_accept, service, version, how, actor, granted.told())
            await service.feed.refresh()
        if force is not None:
            told["forced"] = force.reason
    return service.find_version(prompt, version.version)


def _accept(
    service: Service,
    version: Version,
    how: How,
    actor: str | None = None,
    detail: Mapping[str, Any] | None = None,
) -> None:
    accepted = Acceptance(Prints.of(service.served.identity), how)
    Acceptances(service.catalogue.database).add(
        version.prompt, version.version, accepted, actor=actor, detail=detail
    )
