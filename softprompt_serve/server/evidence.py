"""The routes of evaluation runs: added once, whole; read as runs or as a summary; removed."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from softprompt_serve.errors import BadRequest
from softprompt_serve.registry.evidence import Evidence
from softprompt_serve.registry.evidence_removal import Removal, no_run
from softprompt_serve.registry.evidence_rows import Head
from softprompt_serve.release.evidence_shapes import RunIn, parse_run, to_document
from softprompt_serve.server import evidence_shapes as shapes
from softprompt_serve.server import schemas
from softprompt_serve.server.admin import Actor, OurRoute, Serving, router
from softprompt_serve.telemetry.operations import operation

evidence_router = APIRouter(
    prefix=f"{router.prefix}/prompts/{{name}}",
    route_class=OurRoute,
    tags=["evaluations"],
    dependencies=router.dependencies,
    responses=router.responses,
)

_NEW, _KNOWN = 201, 200
_RUN: dict[str, Any] = {
    "required": True,
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/RunIn"}}},
}
"""The body is read here and not by FastAPI: a large one would hold up all requests meanwhile."""


def evidence_of(service: Serving) -> Evidence:
    """The runs in a service's catalogue."""
    return Evidence(service.catalogue.database)


Kept = Annotated[Evidence, Depends(evidence_of)]


@evidence_router.post(
    "/runs",
    status_code=_NEW,
    responses={_KNOWN: {"model": shapes.AddedOut, "description": "The same run was there."}},
    openapi_extra={"requestBody": _RUN},
)
async def add_run(  # noqa: PLR0917 - FastAPI passes them by name
    name: schemas.Name,
    request: Request,
    service: Serving,
    evidence: Kept,
    response: Response,
    actor: Actor = None,
) -> shapes.AddedOut:
    """Add a run of an evaluation; the same one again is answered 200."""
    run = await asyncio.to_thread(parse_run, await request.body())
    if run.prompt != name:
        msg = f"The run is about the prompt {run.prompt}, not about {name}."
        raise BadRequest(msg, code="invalid_run", param="prompt")
    with operation(service.events.emit, "evaluation", name, run.id, actor) as told:
        new = await asyncio.to_thread(evidence.add, run, actor=actor)
        await service.feed.refresh()
        told.update({"dataset": run.dataset, "created": new})
    response.status_code = _NEW if new else _KNOWN
    return shapes.AddedOut(run=shapes.HeadOut.of(Head.of(run)), recorded=new)


@evidence_router.get("/runs")
async def list_runs(  # noqa: PLR0917 - FastAPI passes them by name
    name: schemas.Name,
    service: Serving,
    evidence: Kept,
    dataset: shapes.DatasetQuery = None,
    version: shapes.VersionQuery = None,
    limit: shapes.LimitQuery = 100,
) -> shapes.RunsOut:
    """Runs of a prompt's versions, newest first, without what they found."""
    found = await asyncio.to_thread(
        evidence.heads, name, dataset=dataset, version=version, limit=limit
    )
    if not found:
        service.find_prompt(name)
    return shapes.RunsOut(data=[shapes.HeadOut.of(head) for head in found])


@evidence_router.get("/runs/{run}", responses={200: {"model": RunIn}})
async def get_run(name: schemas.Name, run: shapes.RunPath, evidence: Kept) -> Response:
    """One run, whole: the document that was sent, in one order."""
    text = await asyncio.to_thread(_document, evidence, name, run)
    return Response(text, media_type="application/json")


@evidence_router.delete("/runs/{run}")
async def remove_run(
    name: schemas.Name, run: shapes.RunPath, service: Serving, actor: Actor = None
) -> shapes.HeadOut:
    """Take one run away for good; answers what it was."""
    with operation(service.events.emit, "evaluation_remove", name, run, actor) as told:
        removal = Removal(service.catalogue.database)
        head = await asyncio.to_thread(removal.remove, name, run, actor=actor)
        await service.feed.refresh()
        told["dataset"] = head.run.dataset
    return shapes.HeadOut.of(head)


@evidence_router.get("/evaluations")
async def get_evaluations(
    name: schemas.Name,
    service: Serving,
    evidence: Kept,
    dataset: shapes.DatasetQuery = None,
    version: shapes.VersionQuery = None,
) -> shapes.ResultsOut:
    """What is known of each version by cohort, data set and evaluator, from the newest runs."""
    found = await asyncio.to_thread(evidence.summary, name)
    if not found:
        service.find_prompt(name)
    wanted = [
        result
        for result in found
        if dataset in {None, result.dataset} and version in {None, result.version}
    ]
    return shapes.ResultsOut(prompt=name, data=[shapes.ResultOut.of(result) for result in wanted])


def _document(evidence: Evidence, prompt: str, run_id: str) -> bytes:
    run = evidence.run(run_id)
    if run is None or run.prompt != prompt:
        raise no_run(prompt, run_id)
    return to_document(run)
