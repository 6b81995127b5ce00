"""The bundle route: a version with its record and evaluations as one file."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Query, Response

from softprompt_serve.artifact import content_from_parts
from softprompt_serve.registry.evidence import Evidence
from softprompt_serve.release.bundle import MEDIA_TYPE, Bundle, evaluation, filename, pack
from softprompt_serve.release.records import stored_record
from softprompt_serve.server import schemas  # noqa: TC001 - FastAPI reads it
from softprompt_serve.server.admin import OurRoute, Serving, router

if TYPE_CHECKING:
    from softprompt_serve.registry.snapshot import Version

bundle_router = APIRouter(
    prefix=router.prefix,
    route_class=OurRoute,
    tags=["bundles"],
    dependencies=router.dependencies,
    responses=router.responses,
)

_MAX_RUNS: Final = 1000
_FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}}
}


@bundle_router.get(
    "/prompts/{name}/versions/{version}/bundle", response_class=Response, responses=_FILE
)
async def get_bundle(
    name: schemas.Name,
    version: schemas.VersionName,
    service: Serving,
    *,
    evaluations: Annotated[bool, Query(description="With the runs that asked it.")] = True,
) -> Response:
    """A version as one file that another server imports unchanged; the same bytes each time."""
    found = service.find_version(name, version)
    data = await asyncio.to_thread(_packed, service, found, evaluations=evaluations)
    disposition = f'attachment; filename="{filename(found.prompt, found.version)}"'
    return Response(data, media_type=MEDIA_TYPE, headers={"content-disposition": disposition})


def _packed(service: Serving, version: Version, *, evaluations: bool) -> bytes:
    runs = {}
    if evaluations:
        kept = Evidence(service.catalogue.database)
        found = kept.runs(version.prompt, version=version.version, limit=_MAX_RUNS)
        runs = {
            run.id: evaluation(run)
            for run in found
            if run.digests[version.version] == version.digest
        }
    return pack(
        Bundle(
            prompt=version.prompt,
            version=version.version,
            content=content_from_parts(*service.store.get(version.digest)),
            record=stored_record(version.record),
            base=service.served.identity,
            runs=runs,
        )
    )
