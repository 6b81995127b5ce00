"""The policy routes of the admin API: what a prompt asks of a version before it is promoted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Depends, Header, Request, Response

from softprompt_serve.registry.policies import NO_POLICY, SUBJECT, Policies
from softprompt_serve.release.policy import parse_policy
from softprompt_serve.server import schemas, verdicts
from softprompt_serve.server.admin import Actor, OurRoute, Serving, router
from softprompt_serve.server.changing import Change, tag, tag_asked
from softprompt_serve.server.policy_shapes import GatesOut, PolicyOut
from softprompt_serve.server.verifying import verify
from softprompt_serve.telemetry.operations import operation

if TYPE_CHECKING:
    from softprompt_serve.server.service import Service

policy_router = APIRouter(
    prefix=f"{router.prefix}/prompts/{{name}}",
    route_class=OurRoute,
    tags=["policies"],
    dependencies=router.dependencies,
    responses=router.responses,
)

_TAG: Final = rf"[0-9a-f]{{16}}|{NO_POLICY}"
_TAG_EXPECTED: Final = 'the ETag of a policy, such as "none"'
_SCHEMA: Final = {"schema": {"$ref": "#/components/schemas/Policy"}}
_BODY: Final[dict[str, Any]] = {
    "required": True,
    "content": {"application/json": _SCHEMA, "application/yaml": _SCHEMA},
}


class PolicyChange(Change[str]):
    """A call that changes a prompt's policy; it is tied to the policy's tag."""

    __slots__ = ()

    @property
    def policies(self) -> Policies:
        """Where policies are kept."""
        return Policies(self.service.catalogue.database)


def _change(
    name: schemas.Name,
    service: Serving,
    response: Response,
    if_match: Annotated[
        str | None,
        Header(description="Only change the policy with this ETag; `*` is any."),
    ] = None,
    actor: Actor = None,
) -> PolicyChange:
    asked = tag_asked(if_match, _TAG, _TAG_EXPECTED)
    return PolicyChange(service, name, response, asked, actor)


Changing = Annotated[PolicyChange, Depends(_change)]


@policy_router.get("/policy")
async def get_policy(name: schemas.Name, service: Serving, response: Response) -> PolicyOut:
    """What is asked of the prompt's versions, also where nobody has set it."""
    return await _shown(service, name, response)


@policy_router.put("/policy", openapi_extra={"requestBody": _BODY})
async def put_policy(change: Changing, request: Request) -> PolicyOut:
    """Replace the whole policy, in JSON or YAML; the same one again changes nothing."""
    policy = await asyncio.to_thread(parse_policy, await request.body())
    with operation(
        change.service.events.emit, "policy", change.prompt, SUBJECT, change.actor
    ) as told:
        stored, new = await asyncio.to_thread(
            change.policies.put,
            change.prompt,
            policy,
            if_match=change.if_match,
            actor=change.actor,
        )
        await change.service.feed.refresh()
        told.update({"tag": stored.tag, "created": new})
    return await _shown(change.service, change.prompt, change.response)


@policy_router.delete("/policy")
async def remove_policy(change: Changing) -> PolicyOut:
    """Have no policy any more; answers what holds now."""
    with operation(
        change.service.events.emit, "policy_remove", change.prompt, SUBJECT, change.actor
    ):
        await asyncio.to_thread(
            change.policies.remove,
            change.prompt,
            if_match=change.if_match,
            actor=change.actor,
        )
        await change.service.feed.refresh()
    return await _shown(change.service, change.prompt, change.response)


@policy_router.get("/versions/{version}/gates")
async def get_gates(name: schemas.Name, version: schemas.VersionName, service: Serving) -> GatesOut:
    """Whether a version could be promoted now, gate by gate; changes nothing."""
    found = service.find_version(name, version)
    said = await asyncio.to_thread(verdicts.judged, service, service.find_prompt(name), found)
    return GatesOut.of(said)


@policy_router.post("/versions/{version}/verify")
async def verify_version(
    name: schemas.Name,
    version: schemas.VersionName,
    service: Serving,
    body: schemas.ForceIn | None = None,
    actor: Actor = None,
) -> schemas.VersionOut:
    """Accept a version on the served base model; 409 with each failed gate if evidence is short."""
    force = None if body is None else body.forced
    return schemas.VersionOut.of(service, await verify(service, name, version, actor, force))


async def _shown(service: Service, name: str, response: Response) -> PolicyOut:
    held = await asyncio.to_thread(verdicts.in_force, service, service.find_prompt(name))
    tag(response, held.stored.tag)
    return PolicyOut(
        prompt=name,
        policy=held.policy,
        default=held.default,
        tag=held.stored.tag,
        updated_at=held.stored.updated_at,
        updated_by=held.stored.updated_by,
    )
