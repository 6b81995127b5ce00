"""The catalogue: prompts, versions, aliases and the audit, durable before it is acknowledged.

Each change is one transaction: the rows it touches, one step of the global revision and one
audit row. A change that alters nothing (the same alias again) steps nothing.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import select

from softprompt_serve.errors import Conflict, NotFound
from softprompt_serve.registry.audit import AuditEntry, Change, entries, state, step
from softprompt_serve.registry.database import Database
from softprompt_serve.registry.names import check_name, next_version
from softprompt_serve.registry.snapshot import Prompt, Snapshot, Version
from softprompt_serve.registry.tables import AliasRow, ContentMeta, VersionRow, now, to_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.orm import Session


class Catalogue:
    """The durable catalogue; every method is safe to call from any thread.

    Every method may raise ``Unavailable`` (``code="catalogue_unavailable"``): the database is
    locked, damaged or gone. Then nothing was changed.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, url: str) -> Self:
        """Open ``sqlite:///PATH``, creating it and migrating its schema if need be.

        Raises:
            BadRequest: ``code="invalid_setting"``: not a URL of a SQLite file.
        """
        return cls(Database.open(url))

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    def revision(self) -> int:
        """The number of changes so far; cheap enough to ask often."""
        with self._database.reading() as session:
            return state(session).revision

    def snapshot(self) -> Snapshot:
        """All prompts that have a version, in the order of their first one."""
        with self._database.reading() as session:
            revision = state(session).revision
            rows = session.scalars(
                select(VersionRow).where(VersionRow.removed_at.is_(None)).order_by(VersionRow.id)
            )
            versions: dict[str, dict[str, Version]] = {}
            for row in rows:
                versions.setdefault(row.prompt, {})[row.name] = row.value()
            aliases: dict[str, dict[str, str]] = {prompt: {} for prompt in versions}
            for alias in session.scalars(select(AliasRow).order_by(AliasRow.name)):
                aliases[alias.prompt][alias.name] = alias.version
        prompts = {
            name: Prompt(name, MappingProxyType(found), MappingProxyType(aliases[name]))
            for name, found in versions.items()
        }
        return Snapshot(revision, MappingProxyType(prompts))

    def add_version(
        self,
        prompt: str,
        version: str | None,
        content: ContentMeta,
        record: Mapping[str, Any],
        actor: str | None = None,
    ) -> tuple[Version, bool]:
        """Add an immutable version; returns it and whether it is new.

        The same content under the same name is the version that exists, and so is the same
        content without a name; its record stays as it was. Without a name a new content becomes
        ``v<k+1>``. A removed version's name takes only the content it had, which restores it
        with the new record.

        Raises:
            BadRequest: ``invalid_name``.
            Conflict: ``version_exists`` or ``version_removed`` (other content under that name),
                ``name_taken`` (by an alias).
        """
        check_name("prompt", prompt)
        if version is not None:
            check_name("version", version)
        with self._database.writing() as session:
            rows = list(session.scalars(select(VersionRow).where(VersionRow.prompt == prompt)))
            taken = {alias.name for alias in _aliases(session, prompt)}
            if version is None:
                same = [row for row in rows if row.digest == content.digest]
                # One that answers already comes before one that would have to be restored.
                same.sort(key=lambda row: (row.removed_at is not None, row.id))
                names = {row.name for row in rows} | taken
                version = same[0].name if same else next_version(names)
            row = next((row for row in rows if row.name == version), None)
            if row is not None:
                _check_same(row, content)
                if row.removed_at is None:
                    return row.value(), False
            if version in taken:
                msg = f"{prompt} has an alias named {version}; a version needs another name."
                raise Conflict(msg, code="name_taken", param="version")
            action = "version.imported" if row is None else "version.restored"
            row = row or VersionRow(prompt=prompt, name=version)
            row.fill(content)
            row.record, row.created_by = to_json(record), actor
            session.add(row)
            detail = {"digest": content.digest, "kind": content.kind}
            step(session, Change(actor, action, prompt, version, detail))
            return row.value(), True

    def set_alias(
        self, prompt: str, alias: str, version: str, actor: str | None = None
    ) -> tuple[Version, str | None]:
        """Point an alias at a version; returns the version and what the alias meant before.

        Raises:
            BadRequest: ``invalid_name``.
            NotFound: ``prompt_not_found`` or ``version_not_found``.
            Conflict: ``name_taken``: a version has that name.
        """
        check_name("alias", alias)
        with self._database.writing() as session:
            rows = _live(session, prompt)
            row = _find(rows, prompt, version)
            if alias in rows:
                msg = f"{prompt} has a version named {alias}; an alias needs another name."
                raise Conflict(msg, code="name_taken", param="alias")
            entry = session.get(AliasRow, (prompt, alias))
            previous = entry.version if entry else None
            if previous != version:
                session.merge(AliasRow(prompt=prompt, name=alias, version=version))
                detail = {"version": version, "previous": previous}
                step(session, Change(actor, "alias.set", prompt, alias, detail))
            return row.value(), previous

    def remove_alias(self, prompt: str, alias: str, actor: str | None = None) -> None:
        """Remove an alias.

        Raises:
            NotFound: ``prompt_not_found`` or ``alias_not_found``.
        """
        with self._database.writing() as session:
            _live(session, prompt)
            entry = session.get(AliasRow, (prompt, alias))
            if entry is None:
                msg = f"{prompt} has no alias {alias!r}."
                raise NotFound(msg, code="alias_not_found", param="alias")
            session.delete(entry)
            detail = {"previous": entry.version}
            step(session, Change(actor, "alias.removed", prompt, alias, detail))

    def set_wanted(
        self,
        prompt: str,
        version: str,
        wanted: bool,  # noqa: FBT001 (what the verb sets, not a flag)
        actor: str | None = None,
    ) -> Version:
        """Say whether a version should be resident and answer; returns it as it is now.

        Raises:
            NotFound: ``prompt_not_found`` or ``version_not_found``.
        """
        with self._database.writing() as session:
            row = _find(_live(session, prompt), prompt, version)
            if row.wanted != wanted:
                row.wanted = wanted
                action = "version.wanted" if wanted else "version.unwanted"
                step(session, Change(actor, action, prompt, version, {"digest": row.digest}))
            return row.value()

    def remove_version(self, prompt: str, version: str, actor: str | None = None) -> Version:
        """Remove a version that no alias names; returns it as it was.

        Its name and digest stay as a tombstone, so that the name never means something else.

        Raises:
            NotFound: ``prompt_not_found`` or ``version_not_found``.
            Conflict: ``version_aliased``.
        """
        with self._database.writing() as session:
            row = _find(_live(session, prompt), prompt, version)
            names = sorted(a.name for a in _aliases(session, prompt) if a.version == version)
            if names:
                msg = (
                    f"{prompt}@{version} is what the alias {', '.join(names)} stands for; point it "
                    "elsewhere or remove it first."
                )
                raise Conflict(msg, code="version_aliased", param="version")
            removed = row.value()
            row.removed_at, row.wanted, row.text = now(), False, None
            step(session, Change(actor, "version.removed", prompt, version, {"digest": row.digest}))
            return removed

    def audit(
        self, *, prompt: str | None = None, limit: int = 100, before: int | None = None
    ) -> list[AuditEntry]:
        """The newest ``limit`` changes first, of one prompt or all, with an id below ``before``."""
        with self._database.reading() as session:
            return entries(session, prompt=prompt, limit=limit, before=before)


def _aliases(session: Session, prompt: str) -> list[AliasRow]:
    return list(session.scalars(select(AliasRow).where(AliasRow.prompt == prompt)))


def _live(session: Session, prompt: str) -> dict[str, VersionRow]:
    query = select(VersionRow).where(VersionRow.prompt == prompt, VersionRow.removed_at.is_(None))
    rows = {row.name: row for row in session.scalars(query)}
    if not rows:
        msg = f"There is no prompt {prompt!r}."
        raise NotFound(msg, code="prompt_not_found", param="prompt")
    return rows


def _find(rows: dict[str, VersionRow], prompt: str, version: str) -> VersionRow:
    if version not in rows:
        msg = f"{prompt} has no version {version!r}; it has {', '.join(rows)}."
        raise NotFound(msg, code="version_not_found", param="version")
    return rows[version]


def _check_same(row: VersionRow, content: ContentMeta) -> None:
    if row.digest == content.digest:
        return
    label, other = f"{row.prompt}@{row.name}", "versions are immutable: use another name."
    if row.removed_at is None:
        msg = f"{label} exists with digest {row.digest[:12]}, not {content.digest[:12]}; {other}"
        raise Conflict(msg, code="version_exists", param="version")
    msg = f"{label} was removed and had other content ({row.digest[:12]}); {other}"
    raise Conflict(msg, code="version_removed", param="version")
