"""The shadow route of the admin API: what was counted on all replicas, read and summed up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastapi import APIRouter

from softprompt_serve.rollout.tally import SHADOW
from softprompt_serve.server import schemas  # noqa: TC001 - FastAPI reads it
from softprompt_serve.server.admin import Bearer, OurRoute, Serving, router
from softprompt_serve.server.shadow_shapes import ShadowOut

if TYPE_CHECKING:
    from softprompt_serve.server.service import Service

shadow_router = APIRouter(
    prefix=router.prefix,
    route_class=OurRoute,
    tags=["shadow"],
    dependencies=router.dependencies,
    responses=router.responses,
)


@shadow_router.get("/prompts/{name}/shadow")
async def get_shadow(name: schemas.Name, service: Serving, bearer: Bearer) -> ShadowOut:
    """How the shadow's answers compare with users', overall and by cohort.

    Samples hold texts of users: they are for operators alone.
    """
    return await shadow_of(name, service, samples=bearer.may("operator"))


async def shadow_of(name: str, service: Service, *, samples: bool = False) -> ShadowOut:
    """What all replicas have counted; with ``samples`` also what this one has captured."""
    prompt = service.find_prompt(name)
    epoch = 0 if prompt.rollout is None else prompt.rollout.epoch
    tallies = (
        [] if not epoch else await asyncio.to_thread(service.tallies.read, name, SHADOW, epoch)
    )
    capture = service.capture if samples else None
    return ShadowOut.of(prompt, tallies, None if capture is None else capture.of(name, epoch))
