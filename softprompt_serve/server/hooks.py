"""Flagger's webhooks: what it asks while it releases a version, answered by the prompt's rollout.

Flagger takes 200 to 202 for yes and everything else for no (fluxcd/flagger,
``pkg/controller/webhook.go``). It repeats what is 5xx and then loses the body, so a refusal is 4xx:
its reason is what Flagger writes into its events. ``rollback`` is asked the other way round: yes
means that the candidate shall go.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from softprompt_serve.errors import Conflict, Invalid
from softprompt_serve.server import hook_answers, rolling
from softprompt_serve.server.admin import Bearer, OurRoute, Serving, router
from softprompt_serve.server.hook_answers import Answer, Release
from softprompt_serve.server.rollout_shapes import RolloutOut
from softprompt_serve.server.schemas import Shape

if TYPE_CHECKING:
    from collections.abc import Callable

    from softprompt_serve.registry.moves import Move
    from softprompt_serve.server.service import Service

logger = logging.getLogger(__name__)

Hook = Literal[
    "confirm-rollout",
    "pre-rollout",
    "rollout",
    "confirm-traffic-increase",
    "confirm-promotion",
    "post-rollout",
    "rollback",
    "event",
]
Outcome = Literal["confirmed", "promoted", "rolled_back", "unchanged", "recorded"]

_QUESTIONS: dict[Hook, Callable[[Release], Answer]] = {
    "confirm-rollout": hook_answers.may_begin,
    "pre-rollout": hook_answers.is_there,
    "rollout": hook_answers.is_well,
    "confirm-traffic-increase": hook_answers.is_well,
    "confirm-promotion": hook_answers.may_be_promoted,
    "rollback": hook_answers.shall_go,
}
_LOGGED_CHARACTERS = 4096


class HookIn(BaseModel):
    """What Flagger sends; fields that it may add are ignored."""

    name: str = Field("", max_length=253, description="The Canary's name.")
    namespace: str = Field("", max_length=253)
    phase: str = Field("", max_length=64, examples=["Progressing"])
    checksum: str = Field("", max_length=128)
    metadata: dict[str, str] = Field(
        default_factory=dict, examples=[{"prompt": "support", "version": "v4"}]
    )

    @property
    def actor(self) -> str:
        """Who the audit says it was."""
        return f"flagger/{self.namespace}/{self.name}"[:128]

    def named(self, what: str) -> str:
        """A field of the metadata.

        Raises:
            Invalid: ``invalid_hook``: it is missing.
        """
        if not (found := self.metadata.get(what)):
            msg = f"The webhook's metadata has no `{what}`; expected `prompt` and `version`."
            raise Invalid(msg, code="invalid_hook", param=f"metadata.{what}")
        return found


class HookOut(Shape):
    """Yes, and why, or what was done."""

    hook: Hook
    outcome: Outcome
    reason: str
    prompt: str | None = None
    version: str | None = Field(None, description="The candidate, resolved if it was an alias.")
    generation: int | None = Field(None, description="Of the prompt's rollout, now.")


hooks_router = APIRouter(
    prefix=router.prefix,
    route_class=OurRoute,
    tags=["hooks"],
    dependencies=router.dependencies,
    responses=router.responses,
)


@hooks_router.post("/hooks/flagger/{hook}")
async def flagger(hook: Hook, call: HookIn, service: Serving, bearer: Bearer) -> HookOut:
    """Answer a webhook of Flagger's: 200 is yes, 409 is no, with the reason."""
    if hook == "event":
        said = {name: text[:_LOGGED_CHARACTERS] for name, text in call.metadata.items()}
        logger.info("%r is %r: %r", call.actor, call.phase, said)
        return HookOut(hook=hook, outcome="recorded", reason="Logged.")
    bearer.check_prompt(call.named("prompt"))
    release = await _find(service, call.named("prompt"), call.named("version"))
    if hook == "post-rollout":
        return await _finish(service, release, call, bearer.signs(call.actor))
    answer = _QUESTIONS[hook](release)
    if not answer.yes:
        raise Conflict(answer.reason, code=answer.code)
    return _out(hook, release, "confirmed", answer.reason)


async def _find(service: Service, prompt: str, selector: str) -> Release:
    """What is known of the candidate and of the prompt's rollout.

    Raises:
        NotFound: ``prompt_not_found`` or ``version_not_found``.
    """
    version = service.find_version(prompt, selector)
    seen = await rolling.look(service, prompt)
    rollout = RolloutOut.of(prompt, seen.view.rollout, seen)
    undone = False
    if rollout.state == "rolled_back" and not rollout.weights.get(version.version):
        _, *before = await asyncio.to_thread(service.rollouts.history, prompt, 2)
        undone = any(version.version in entry["weights"] for entry in before)
    resident = service.residency.is_resident(version)
    return Release(prompt, version.version, resident, rollout, undone)


async def _finish(service: Service, release: Release, call: HookIn, actor: str | None) -> HookOut:
    """Follow Flagger's verdict; what it says again changes nothing.

    Raises:
        Conflict: ``hook_not_ready``: ours was another, meanwhile.
    """
    moves, candidate = service.rollouts.moves, release.candidate
    if call.phase == "Succeeded":
        if release.undone:
            msg = f"{candidate} was rolled back: {release.rollout.reason}"
            raise Conflict(msg, code="hook_not_ready")
        move = moves.promote(candidate, f"{call.actor} succeeded.")
        return await _change(service, release, actor, move, "promoted")
    if call.phase != "Failed":
        why = f"Nothing is due in the phase {call.phase!r}."
        return _out("post-rollout", release, "unchanged", why)
    if not release.takes_part:
        why = f"{candidate} has no part in the rollout, so there is nothing to roll back."
        return _out("post-rollout", release, "unchanged", why)
    move = moves.rollback(f"{call.actor} failed.")
    return await _change(service, release, actor, move, "rolled_back")


async def _change(
    service: Service, release: Release, actor: str | None, move: Move, outcome: Outcome
) -> HookOut:
    made = await rolling.change(service, release.prompt, move, if_match=None, actor=actor)
    if made.generation == release.rollout.generation:
        outcome = "unchanged"
    out = _out("post-rollout", release, outcome, made.reason)
    return out.model_copy(update={"generation": made.generation})


def _out(hook: Hook, release: Release, outcome: Outcome, reason: str) -> HookOut:
    return HookOut(
        hook=hook,
        outcome=outcome,
        reason=reason,
        prompt=release.prompt,
        version=release.candidate,
        generation=release.rollout.generation,
    )
