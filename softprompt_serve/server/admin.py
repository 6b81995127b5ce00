"""The admin API under ``/softprompts/v1``: thin routes over :class:`~.service.Service`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, File, Form, Query, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

from softprompt_serve.access.scopes import Grant
from softprompt_serve.artifact.content import Kind  # noqa: TC001 - pydantic reads it
from softprompt_serve.errors import BadRequest, SoftpromptError
from softprompt_serve.release.records import parse_record
from softprompt_serve.server import schemas
from softprompt_serve.server.approvals import approvals_of
from softprompt_serve.server.gate import PREFIX, grant_of
from softprompt_serve.server.refusals import error_response
from softprompt_serve.server.service import Service
from softprompt_serve.server.state import AppState
from softprompt_serve.server.upload import read_artifact

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


class OurRoute(APIRoute):
    """Answers our errors, and FastAPI's about a request's shape, in OpenAI's error shape."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler."""
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                return error_response(self.misshapen(error))
            except HTTPException as error:
                return error_response(_as_ours(error))
            except SoftpromptError as error:
                return error_response(error)

        return handled

    def misshapen(self, error: RequestValidationError) -> SoftpromptError:
        """What to answer where a request's shape is wrong."""
        return _as_bad_request(error)


def _as_ours(error: HTTPException) -> SoftpromptError:
    """FastAPI wraps what happens while it reads a body: our own refusals, and bad multipart."""
    if isinstance(error.__cause__, SoftpromptError):
        return error.__cause__
    return BadRequest(f"The body can't be read: {error.detail}", code="invalid_body")


def _as_bad_request(error: RequestValidationError) -> BadRequest:
    first = error.errors()[0]
    where = [str(part) for part in first["loc"] if part not in {"body", "path", "query"}]
    problems = "; ".join(
        f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()
    )
    return BadRequest(f"Invalid request: {problems}.", param=".".join(where) or None)


def _state(request: Request) -> AppState:
    state: AppState = request.app.state.softprompt
    return state


def _service(request: Request) -> Service:
    return _state(request).require_service()


# As much as a database's integer holds.
_LARGEST_ID = 2**63 - 1

State = Annotated[AppState, Depends(_state)]
Serving = Annotated[Service, Depends(_service)]
Bearer = Annotated[Grant, Depends(grant_of)]
"""What the caller may do; the gate has checked the call itself."""


def _actor(
    bearer: Bearer,
    actor: Annotated[
        str | None,
        Query(max_length=128, description="Who makes the change; follows the token's own name."),
    ] = None,
) -> str | None:
    return bearer.signs(actor)


Actor = Annotated[str | None, Depends(_actor)]
"""Who the audit says made a change: the token, then whoever the caller says it is."""

# In place of FastAPI's own 422, which none of these routes answers.
_REFUSED: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": schemas.Refused, "description": "Refused; nothing has changed."},
    503: {"model": schemas.Refused, "description": "Not now, perhaps later."},
}

router = APIRouter(
    prefix=PREFIX,
    route_class=OurRoute,
    tags=["softprompts"],
    dependencies=[
        Depends(HTTPBearer(auto_error=False, description="A token; see docs/security.md."))
    ],
    responses=_REFUSED,
)
probes = APIRouter(prefix=PREFIX, route_class=OurRoute, tags=["softprompts"])


@probes.get("/healthz")
async def healthz() -> schemas.Health:
    """Whether the process answers."""
    return schemas.Health()


@probes.get("/readyz", responses={503: {"model": schemas.Readiness}})
async def readyz(state: State, response: Response) -> schemas.Readiness:
    """Whether this server may get traffic; 503 with the reason if not."""
    readiness = await state.readiness()
    response.status_code = 200 if readiness.ready else 503
    return readiness


@router.get("/server")
async def server(state: State) -> schemas.ServerOut:
    """What this server is: versions, base model, limits and the start-up probe's findings."""
    return state.describe()


@router.get("/prompts")
async def list_prompts(service: Serving, bearer: Bearer) -> schemas.PromptList:
    """All prompts with their versions and aliases; those alone that the token is for."""
    snapshot = service.snapshot
    prompts = [p for name, p in sorted(snapshot.prompts.items()) if bearer.covers(name)]
    data = [schemas.PromptOut.of(service, prompt) for prompt in prompts]
    return schemas.PromptList(revision=snapshot.revision, data=data)


@router.get("/prompts/{name}")
async def get_prompt(name: schemas.Name, service: Serving) -> schemas.PromptOut:
    """One prompt."""
    return schemas.PromptOut.of(service, service.find_prompt(name))


@router.post(
    "/prompts/{name}/versions",
    status_code=201,
    responses={200: {"model": schemas.VersionOut, "description": "The same content was there."}},
)
async def import_version(  # noqa: PLR0917 - one argument per form part
    name: schemas.Name,
    service: Serving,
    response: Response,
    tensor: Annotated[UploadFile | None, File(description="safetensors, or a PEFT zip")] = None,
    record: Annotated[str | None, Form(description="Release record, JSON.")] = None,
    version: Annotated[str | None, Form(pattern=schemas.NAME)] = None,
    kind: Annotated[Kind | None, Form()] = None,
    text: Annotated[str | None, Form(description="Text of a hard or mixed version.")] = None,
    digest: Annotated[
        str | None, Form(pattern=schemas.DIGEST, description="Refuse content of another digest.")
    ] = None,
    actor: Actor = None,
) -> schemas.VersionOut:
    """Import an immutable version; the same content under the same name is answered 200."""
    data = None if tensor is None else await tensor.read()
    filename = None if tensor is None else tensor.filename
    limits = service.served.limits
    artifact = await asyncio.to_thread(
        read_artifact, kind, data, filename, text, limits, digest=digest
    )
    added, created = await service.import_version(
        name, version, artifact, parse_record(record), actor
    )
    response.status_code = 201 if created else 200
    return schemas.VersionOut.of(service, added)


@router.get("/prompts/{name}/versions")
async def list_versions(name: schemas.Name, service: Serving) -> list[schemas.VersionOut]:
    """A prompt's versions, oldest first."""
    versions = service.find_prompt(name).versions.values()
    return [schemas.VersionOut.of(service, version) for version in versions]


@router.get("/prompts/{name}/versions/{version}")
async def get_version(
    name: schemas.Name, version: schemas.VersionName, service: Serving
) -> schemas.VersionOut:
    """One version, by its name or an alias, with who approved it."""
    found = service.find_version(name, version)
    approvals = await approvals_of(service, found)
    return schemas.VersionOut.of(service, found).model_copy(update={"approvals": approvals})


@router.delete(
    "/prompts/{name}/versions/{version}",
    responses={
        202: {"model": schemas.RemovedVersion, "description": "Removed, but still draining."}
    },
)
async def remove_version(
    name: schemas.Name,
    version: schemas.VersionName,
    service: Serving,
    response: Response,
    actor: Actor = None,
) -> schemas.RemovedVersion:
    """Remove a version: gone for new requests at once, freed when those in flight have ended."""
    freed = await service.remove_version(name, version, actor)
    response.status_code = 200 if freed else 202
    return schemas.RemovedVersion(removed=f"{name}@{version}", draining=not freed)


@router.put("/prompts/{name}/versions/{version}/residency")
async def set_residency(
    name: schemas.Name,
    version: schemas.VersionName,
    wanted: schemas.ResidencyIn,
    service: Serving,
    actor: Actor = None,
) -> schemas.VersionOut:
    """Load a version, or drain and unload it."""
    changed = await service.set_resident(name, version, actor, wanted=wanted.resident)
    return schemas.VersionOut.of(service, changed)


@router.put("/prompts/{name}/aliases/{alias}")
async def set_alias(
    name: schemas.Name,
    alias: schemas.AliasName,
    target: schemas.AliasIn,
    service: Serving,
    actor: Actor = None,
) -> schemas.AliasOut:
    """Point an alias at a version; when this answers, new requests follow it."""
    version, previous = await service.set_alias(name, alias, target.version, actor, target.forced)
    return schemas.AliasOut(
        prompt=name,
        alias=alias,
        version=version.version,
        digest=version.digest,
        previous=previous,
        unverified=service.verifying.why(version),
    )


@router.delete("/prompts/{name}/aliases/{alias}")
async def remove_alias(
    name: schemas.Name, alias: schemas.AliasName, service: Serving, actor: Actor = None
) -> schemas.Removed:
    """Forget an alias."""
    await service.remove_alias(name, alias, actor)
    return schemas.Removed(removed=f"{name}@{alias}")


@router.get("/residency")
async def residency(service: Serving) -> schemas.ResidencyOut:
    """What each worker holds, asked of the workers now."""
    workers: list[dict[str, Any]] = await service.residency.refresh()
    leases = {
        version.label: count
        for prompt in service.snapshot.prompts.values()
        for version in prompt.versions.values()
        if (count := service.residency.leases(version.digest))
    }
    return schemas.ResidencyOut(workers=workers, leases=leases)


@router.get("/audit")
async def audit(
    service: Serving,
    bearer: Bearer,
    prompt: Annotated[str | None, Query(pattern=schemas.NAME)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before: Annotated[int | None, Query(ge=1, le=_LARGEST_ID)] = None,
) -> schemas.AuditList:
    """Changes, newest first; of one prompt, if the token is for some alone."""
    bearer.check_prompt(prompt)
    entries = await asyncio.to_thread(
        service.catalogue.audit, prompt=prompt, limit=limit, before=before
    )
    return schemas.AuditList(data=[schemas.AuditOut.of(entry) for entry in entries])
