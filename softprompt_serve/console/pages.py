"""The console's pages, and its own files."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from softprompt_serve.console import overview
from softprompt_serve.console.bank import residency_page
from softprompt_serve.console.gatekeeping import ROOT
from softprompt_serve.console.notes import Notes
from softprompt_serve.console.prompt import prompt_page
from softprompt_serve.console.web import ConsoleRoute, LoggedOut, Visit
from softprompt_serve.errors import NotFound
from softprompt_serve.server import admin
from softprompt_serve.server.schemas import NAME, Name

FOREVER: Final = "public, max-age=31536000, immutable"
DONE: Final = frozenset({"promote", "pause", "resume", "rollback"})
CHANGES: Final = 50
"""On one page of the audit."""


async def visitor(request: Request) -> Visit:
    """Who has logged in."""
    visit = await Visit.of(request)
    if visit.session is None:
        raise LoggedOut
    return visit


Visitor = Annotated[Visit, Depends(visitor)]

pages = APIRouter(prefix=ROOT, route_class=ConsoleRoute, include_in_schema=False)


@pages.get("")
async def root(request: Request) -> Response:
    """The address without its last slash."""
    return Visit(request, None, "").go("/")


@pages.get("/static/{digest}/{name}")
async def static(request: Request, digest: str, name: str) -> Response:
    """A style sheet, script or picture; open to all."""
    asset = Visit(request, None, "").console.assets.find(digest, name)
    if asset is None:
        msg = "There is no such file."
        raise NotFound(msg)
    headers = {"cache-control": FOREVER}
    return Response(asset.data, media_type=asset.media_type, headers=headers)


@pages.get("/")
async def prompts(
    visit: Visitor,
    find: Annotated[str, Query(max_length=63)] = "",
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
) -> Response:
    """All prompts."""
    visit.check("GET", "/prompts")
    service = visit.state.require_service()
    found = await overview.overview(service, find.strip().lower(), page, visit.grant)
    return visit.show("overview.html", here="overview", found=found, find=find)


@pages.get("/prompts/{name}")
async def prompt(
    visit: Visitor,
    name: Name,
    done: Annotated[str | None, Query(max_length=16)] = None,
) -> Response:
    """One prompt."""
    visit.check("GET", f"/prompts/{name}")
    service = visit.state.require_service()
    found = await prompt_page(service, name)
    return visit.show(
        "prompt.html", here="overview", found=found, done=done if done in DONE else None
    )


@pages.get("/residency")
async def residency(visit: Visitor) -> Response:
    """What each worker holds."""
    visit.check("GET", "/residency")
    found = await residency_page(visit.state.require_service())
    return visit.show(
        "residency.html", here="residency", found=found, server=visit.state.describe()
    )


@pages.get("/audit")
async def audit(
    visit: Visitor,
    prompt: Annotated[str | None, Query(pattern=rf"{NAME}|^$")] = None,
    before: Annotated[int | None, Query(ge=1, le=2**53)] = None,
) -> Response:
    """Changes, newest first."""
    visit.check("GET", "/audit")
    notes, service = Notes(), visit.state.require_service()
    found = await notes.or_none(
        admin.audit(service, visit.grant, prompt or None, CHANGES + 1, before)
    )
    return visit.show(
        "audit.html",
        here="audit",
        changes=None if found is None else found.data,
        notes=notes.said,
        prompt=prompt or "",
        before=before,
        most=CHANGES,
    )
