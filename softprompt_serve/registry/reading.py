"""From the catalogue's rows to a snapshot: only what has changed since the last one is read."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import select

from softprompt_serve.registry.acceptances import acceptances
from softprompt_serve.registry.access import NO_PROMPT, read_keyring
from softprompt_serve.registry.audit import state
from softprompt_serve.registry.snapshot import Prompt, Snapshot
from softprompt_serve.registry.tables import AliasRow, AuditRow, RolloutRow, VersionRow

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy.orm import InstrumentedAttribute, Session

    from softprompt_serve.registry.snapshot import Version

MOST_CHANGES: Final = 500
"""Beyond so many changes everything is read again, which is quicker then."""


def read_snapshot(session: Session, previous: Snapshot) -> Snapshot:
    """The catalogue as the session sees it; prompts that have not changed are ``previous``'s.

    Each revision has one audit row, which names the prompt that it changed. Where the audit does
    not continue ``previous`` (a backup was put in place) everything is read.
    """
    revision = state(session).revision
    changed = _changed(session, previous, revision)
    if changed is None:
        everything = MappingProxyType(_prompts(session, None))
        return Snapshot(revision, everything, read_keyring(session))
    if not changed:
        return previous
    found = _prompts(session, changed)
    # Those that were there keep their places; new ones come last.
    prompts = {
        name: found.get(name, prompt)
        for name, prompt in previous.prompts.items()
        if name in found or name not in changed
    }
    prompts |= found
    keyring = read_keyring(session) if NO_PROMPT in changed else previous.keyring
    return Snapshot(revision, MappingProxyType(prompts), keyring)


def _changed(session: Session, previous: Snapshot, revision: int) -> frozenset[str] | None:
    """Names of the prompts that changed, or None if that can't be told."""
    steps = revision - previous.revision
    if not previous.revision or not 0 <= steps <= MOST_CHANGES:
        return None
    if not steps:
        return frozenset()
    rows = session.execute(
        select(AuditRow.revision, AuditRow.prompt).order_by(AuditRow.id.desc()).limit(steps)
    ).all()
    if [row.revision for row in rows] != list(range(revision, previous.revision, -1)):
        return None
    return frozenset(row.prompt for row in rows)


def _prompts(session: Session, names: Collection[str] | None) -> dict[str, Prompt]:
    """Prompts that have a version, in the order of their first one; all, or those of ``names``."""

    def of(query: Any, prompt: InstrumentedAttribute[str]) -> Any:
        return query if names is None else query.where(prompt.in_(names))

    versions: dict[str, dict[str, Version]] = {}
    accepted = acceptances(session, names)
    live = select(VersionRow).where(VersionRow.removed_at.is_(None)).order_by(VersionRow.id)
    for row in session.scalars(of(live, VersionRow.prompt)):
        known = accepted.get((row.prompt, row.name), ())
        versions.setdefault(row.prompt, {})[row.name] = row.value(known)
    aliases: dict[str, dict[str, str]] = {prompt: {} for prompt in versions}
    for alias in session.scalars(of(select(AliasRow).order_by(AliasRow.name), AliasRow.prompt)):
        aliases[alias.prompt][alias.name] = alias.version
    rollouts = {
        row.prompt: row.value()
        for row in session.scalars(of(select(RolloutRow), RolloutRow.prompt))
    }
    return {
        name: Prompt(
            name, MappingProxyType(found), MappingProxyType(aliases[name]), rollouts.get(name)
        )
        for name, found in versions.items()
    }
