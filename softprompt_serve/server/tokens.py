"""The token routes of the admin API: made, rotated and revoked; each text is answered once."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Response

from softprompt_serve.registry.access import NO_PROMPT, AccessTokens
from softprompt_serve.server import token_shapes as shapes
from softprompt_serve.server.admin import Actor, OurRoute, Serving, router
from softprompt_serve.server.schemas import NAME
from softprompt_serve.telemetry.operations import operation

tokens_router = APIRouter(
    prefix=f"{router.prefix}/tokens",
    route_class=OurRoute,
    tags=["tokens"],
    dependencies=router.dependencies,
    responses=router.responses,
)

_KEEP_NOTHING = "no-store"


def access_tokens_of(service: Serving) -> AccessTokens:
    """The tokens in a service's catalogue."""
    return AccessTokens(service.catalogue.database)


Kept = Annotated[AccessTokens, Depends(access_tokens_of)]
TokenName = Annotated[str, Path(pattern=NAME, examples=["ci"])]


@tokens_router.get("")
async def list_tokens(tokens: Kept) -> shapes.TokensOut:
    """All tokens, those that were revoked too; never what they are."""
    found = await asyncio.to_thread(tokens.all)
    return shapes.TokensOut(data=[shapes.TokenOut.of(token) for token in found])


@tokens_router.post("", status_code=201)
async def create_token(
    wanted: shapes.TokenIn,
    service: Serving,
    tokens: Kept,
    response: Response,
    actor: Actor = None,
) -> shapes.NewTokenOut:
    """Make a token; its text is in this answer and nowhere else."""
    with operation(service.events.emit, "token_create", NO_PROMPT, wanted.name, actor):
        token, minted = await asyncio.to_thread(
            tokens.create,
            wanted.name,
            tuple(wanted.scopes),
            tuple(wanted.prompts),
            expires_at=wanted.expires,
            actor=actor,
        )
        await service.feed.refresh()
    response.headers["cache-control"] = _KEEP_NOTHING
    return shapes.NewTokenOut(token=minted.text, **shapes.TokenOut.of(token).model_dump())


@tokens_router.post("/{token}/rotate")
async def rotate_token(  # noqa: PLR0917 - FastAPI passes them by name
    token: TokenName,
    service: Serving,
    tokens: Kept,
    response: Response,
    how: shapes.RotateIn | None = None,
    actor: Actor = None,
) -> shapes.NewTokenOut:
    """Give a token a new text; the former one is accepted for a while, if that is asked for."""
    grace = 0.0 if how is None else how.grace_seconds
    with operation(service.events.emit, "token_rotate", NO_PROMPT, token, actor):
        changed, minted = await asyncio.to_thread(
            tokens.rotate, token, grace_seconds=grace, actor=actor
        )
        await service.feed.refresh()
    response.headers["cache-control"] = _KEEP_NOTHING
    return shapes.NewTokenOut(token=minted.text, **shapes.TokenOut.of(changed).model_dump())


@tokens_router.delete("/{token}")
async def revoke_token(
    token: TokenName, service: Serving, tokens: Kept, actor: Actor = None
) -> shapes.TokenOut:
    """Accept a token no more, here at once and on other replicas as soon as they look."""
    with operation(service.events.emit, "token_revoke", NO_PROMPT, token, actor):
        revoked = await asyncio.to_thread(tokens.revoke, token, actor=actor)
        await service.feed.refresh()
    return shapes.TokenOut.of(revoked)
