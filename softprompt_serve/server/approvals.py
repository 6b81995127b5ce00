"""Who put a version before users, and on what grounds: read from the audit, never told by trainers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from softprompt_serve.errors import Unavailable
from softprompt_serve.server.schemas import AuditOut

if TYPE_CHECKING:
    from softprompt_serve.registry.audit import AuditEntry
    from softprompt_serve.registry.snapshot import Version
    from softprompt_serve.server.service import Service

_NAMED_BY: Final = {"alias.set": "version", "rollout.promoted": "production"}
"""What approves a version, and where its detail names which."""

_NEWEST: Final = 1000


async def approvals_of(service: Service, version: Version) -> list[AuditOut] | None:
    """Each time the version was promoted or given an alias, newest first.

    An entry's detail is all that the audit holds of it: the reason, and what the gates said.
    None while the catalogue can't be read, which must not keep anybody from reading a version.
    """
    try:
        entries = await asyncio.to_thread(
            service.catalogue.audit,
            prompt=version.prompt,
            limit=_NEWEST,
            actions=tuple(_NAMED_BY),
        )
    except Unavailable:
        return None
    return [AuditOut.of(entry) for entry in entries if _approves(entry, version)]


def _approves(entry: AuditEntry, version: Version) -> bool:
    return bool(entry.detail.get(_NAMED_BY[entry.action]) == version.version)
