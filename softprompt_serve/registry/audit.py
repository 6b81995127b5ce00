"""The audit: one row for each change, written in the change's own transaction."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from softprompt_serve.errors import Unavailable
from softprompt_serve.registry.listening import announce
from softprompt_serve.registry.tables import AuditRow, StateRow, now, to_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change.

    Attributes:
        id: grows with each change; use it as ``before`` to read on.
        revision: the catalogue revision that the change made.
        at: RFC 3339, UTC.
        actor: who asked for it, or None.
        action: ``version.imported``, ``version.restored``, ``version.removed``,
            ``version.wanted``, ``version.unwanted``, ``version.accepted``, ``alias.set``, ``alias.removed``,
            ``rollout.set``, ``rollout.weights``, ``rollout.advanced``, ``rollout.paused``,
            ``rollout.resumed``, ``rollout.promoted``, ``rollout.rolled_back``,
            ``rollout.removed``, ``evaluation.add``, ``evaluation.remove``, ``policy.set``,
            ``policy.remove``, ``token.created``, ``token.rotated`` or ``token.revoked``.
        prompt: the prompt's name; "" for a change of tokens.
        subject: the name of the version, alias or token, a run's id, ``rollout`` or ``policy``.
        detail: what else is worth knowing, such as the digest or the previous version.
    """

    id: int
    revision: int
    at: str
    actor: str | None
    action: str
    prompt: str
    subject: str
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """What is about to be written: the fields of an :class:`AuditEntry` that a caller knows."""

    actor: str | None
    action: str
    prompt: str
    subject: str
    detail: Mapping[str, Any]


def state(session: Session) -> StateRow:
    """The row that holds the revision.

    Raises:
        Unavailable: ``code="catalogue_unavailable"``: it is missing.
    """
    row = session.get(StateRow, 1)
    if row is None:
        msg = "The catalogue is damaged: its revision is missing. Restore it from a backup."
        raise Unavailable(msg, code="catalogue_unavailable")
    return row


def step(session: Session, change: Change) -> None:
    """Step the revision, write the row that says why, and tell who listens."""
    row = state(session)
    row.revision += 1
    announce(session, row.revision)
    session.add(
        AuditRow(
            revision=row.revision,
            at=now(),
            actor=change.actor,
            action=change.action,
            prompt=change.prompt,
            subject=change.subject,
            detail=to_json(change.detail),
        )
    )


def entries(
    session: Session,
    *,
    prompt: str | None,
    limit: int,
    before: int | None,
    actions: Sequence[str] | None = None,
) -> list[AuditEntry]:
    """The newest ``limit`` changes first, of one prompt or all, with an id below ``before``.

    Where ``actions`` are given, of those alone.
    """
    query = select(AuditRow).order_by(AuditRow.id.desc()).limit(limit)
    if actions is not None:
        query = query.where(AuditRow.action.in_(actions))
    if prompt is not None:
        query = query.where(AuditRow.prompt == prompt)
    if before is not None:
        query = query.where(AuditRow.id < before)
    return [
        AuditEntry(
            id=row.id,
            revision=row.revision,
            at=row.at,
            actor=row.actor,
            action=row.action,
            prompt=row.prompt,
            subject=row.subject,
            detail=MappingProxyType(json.loads(row.detail)),
        )
        for row in session.scalars(query)
    ]
