"""The catalogue: prompts, versions, aliases and the audit, durable before it is acknowledged.

Each change is one transaction: the rows it touches, one step of the global revision and one
audit row. A change that alters nothing (the same alias again) steps nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import select

from softprompt_serve.errors import Conflict, NotFound
from softprompt_serve.registry.acceptances import accept
from softprompt_serve.registry.audit import AuditEntry, Change, entries, state, step
from softprompt_serve.registry.database import Database
from softprompt_serve.registry.guard import check_alias, check_not_baseline
from softprompt_serve.registry.lookup import aliases_of, find_version, live_versions
from softprompt_serve.registry.names import check_name, next_version
from softprompt_serve.registry.outcomes import promoted_by_alias
from softprompt_serve.registry.reading import read_snapshot
from softprompt_serve.registry.snapshot import EMPTY, PRODUCTION, Snapshot, Version
from softprompt_serve.registry.standing import Standing, check_unnamed
from softprompt_serve.registry.tables import (
    AliasRow,
    ContentMeta,
    VersionRow,
    now,
    to_json,
)
from softprompt_serve.release.drift import Acceptance

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from softprompt_serve.registry.guard import Pass
    from softprompt_serve.release.drift import Prints


class Catalogue:
    """The durable catalogue; every method is safe to call from any thread.

    Every method may raise ``Unavailable`` (``code="catalogue_unavailable"``): the database is
    locked, damaged or gone. Then nothing was changed.
    """

    def __init__(self, database: Database, *, guarded: bool = False) -> None:
        """With ``guarded`` an alias is moved past a prompt's policy with a pass alone."""
        self._database = database
        self._guarded = guarded

    @classmethod
    def open(cls, url: str, *, guarded: bool = False) -> Self:
        """Open ``sqlite:///PATH`` or ``postgresql://…``, migrating its schema if need be.

        Raises:
            BadRequest: ``code="invalid_setting"``: not such a URL.
        """
        return cls(Database.open(url), guarded=guarded)

    @property
    def database(self) -> Database:
        """Where it is kept, for what lives beside it: rollouts, replicas, leases, tallies."""
        return self._database

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Have ``wake`` called soon after a change; see :meth:`Database.subscribe`."""
        return self._database.subscribe(wake)

    def revision(self) -> int:
        """The number of changes so far; cheap enough to ask often."""
        with self._database.reading() as session:
            return state(session).revision

    def snapshot(self, previous: Snapshot = EMPTY) -> Snapshot:
        """All prompts that have a version; what has not changed since ``previous`` is shared."""
        with self._database.reading() as session:
            return read_snapshot(session, previous)

    def add_version(
        self,
        prompt: str,
        version: str | None,
        content: ContentMeta,
        record: Mapping[str, Any],
        actor: str | None = None,
        *,
        accepted_on: Prints | None = None,
    ) -> tuple[Version, bool]:
        """Add an immutable version; returns it and whether it is new.

        The same content under the same name is the version that exists, and so is the same
        content without a name; its record stays as it was. Without a name a new content becomes
        ``v<k+1>``. A removed version's name takes only the content it had, which restores it
        with the new record. ``accepted_on`` is the base model that it came for, if that is known.

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
            taken = {alias.name for alias in aliases_of(session, prompt)}
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
            if accepted_on is not None:
                accept(session, prompt, version, Acceptance(accepted_on, "imported"), actor)
            detail = {"digest": content.digest, "kind": content.kind}
            step(session, Change(actor, action, prompt, version, detail))
            return row.value(), True

    def set_alias(
        self,
        prompt: str,
        alias: str,
        version: str,
        actor: str | None = None,
        *,
        granted: Pass | None = None,
    ) -> tuple[Version, str | None]:
        """Point an alias at a version; returns the version and what the alias meant before.

        Where one version has all of a rollout's split, moving ``production`` promotes.

        Raises:
            BadRequest: ``invalid_name``.
            NotFound: ``prompt_not_found`` or ``version_not_found``.
            Conflict: ``name_taken``: a version has that name; ``rollout_active``: ``production``
                can't move while arms are compared.
            Ungranted: the prompt's policy asks for a verdict, and ``granted`` is none for this.
        """
        check_name("alias", alias)
        with self._database.writing() as session:
            rows = live_versions(session, prompt)
            row = find_version(rows, prompt, version)
            if alias in rows:
                msg = f"{prompt} has a version named {alias}; an alias needs another name."
                raise Conflict(msg, code="name_taken", param="alias")
            entry = session.get(AliasRow, (prompt, alias))
            previous = entry.version if entry else None
            told: Mapping[str, Any] = {}
            if self._guarded and previous != version:
                known = {each.name: each.version for each in aliases_of(session, prompt)}
                told = check_alias(
                    session,
                    prompt,
                    alias=alias,
                    version=version,
                    rows=rows,
                    aliases=known,
                    granted=granted,
                )
            if alias == PRODUCTION and promoted_by_alias(session, prompt, version, actor, told):
                return row.value(), previous
            if previous != version:
                session.merge(AliasRow(prompt=prompt, name=alias, version=version))
                detail = {"version": version, "previous": previous, **told}
                step(session, Change(actor, "alias.set", prompt, alias, detail))
            return row.value(), previous

    def remove_alias(self, prompt: str, alias: str, actor: str | None = None) -> None:
        """Remove an alias.

        Raises:
            NotFound: ``prompt_not_found`` or ``alias_not_found``.
            Conflict: ``rollout_active``: ``production`` is needed while arms are compared.
        """
        with self._database.writing() as session:
            live_versions(session, prompt)
            entry = session.get(AliasRow, (prompt, alias))
            if entry is None:
                msg = f"{prompt} has no alias {alias!r}."
                raise NotFound(msg, code="alias_not_found", param="alias")
            if alias == PRODUCTION:
                Standing.of(session, prompt).check_settled()
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
            Conflict: ``version_in_rollout`` or ``version_is_baseline``: it can't be unloaded.
        """
        with self._database.writing() as session:
            row = find_version(live_versions(session, prompt), prompt, version)
            if row.wanted != wanted:
                if not wanted:
                    check_unnamed(session, prompt, version)
                    check_not_baseline(session, prompt, version)
                row.wanted = wanted
                action = "version.wanted" if wanted else "version.unwanted"
                step(session, Change(actor, action, prompt, version, {"digest": row.digest}))
            return row.value()

    def remove_version(self, prompt: str, version: str, actor: str | None = None) -> Version:
        """Remove a version that neither an alias nor the rollout names; returns it as it was.

        Its name and digest stay as a tombstone, so that the name never means something else.

        Raises:
            NotFound: ``prompt_not_found`` or ``version_not_found``.
            Conflict: ``version_aliased``, ``version_in_rollout`` or ``version_is_baseline``.
        """
        with self._database.writing() as session:
            row = find_version(live_versions(session, prompt), prompt, version)
            names = sorted(a.name for a in aliases_of(session, prompt) if a.version == version)
            if names:
                msg = (
                    f"{prompt}@{version} is what the alias {', '.join(names)} stands for; point it "
                    "elsewhere or remove it first."
                )
                raise Conflict(msg, code="version_aliased", param="version")
            check_unnamed(session, prompt, version)
            check_not_baseline(session, prompt, version)
            removed = row.value()
            row.removed_at, row.wanted, row.text = now(), False, None
            step(session, Change(actor, "version.removed", prompt, version, {"digest": row.digest}))
            return removed

    def audit(
        self,
        *,
        prompt: str | None = None,
        limit: int = 100,
        before: int | None = None,
        actions: Sequence[str] | None = None,
    ) -> list[AuditEntry]:
        """The newest ``limit`` changes first, of one prompt or all, with an id below ``before``.

        Where ``actions`` are given, of those alone.
        """
        with self._database.reading() as session:
            return entries(session, prompt=prompt, limit=limit, before=before, actions=actions)


def _check_same(row: VersionRow, content: ContentMeta) -> None:
    if row.digest == content.digest:
        return
    label, other = f"{row.prompt}@{row.name}", "versions are immutable: use another name."
    if row.removed_at is None:
        msg = f"{label} exists with digest {row.digest[:12]}, not {content.digest[:12]}; {other}"
        raise Conflict(msg, code="version_exists", param="version")
    msg = f"{label} was removed and had other content ({row.digest[:12]}); {other}"
    raise Conflict(msg, code="version_removed", param="version")
