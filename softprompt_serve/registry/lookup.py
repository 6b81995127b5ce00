"""Rows of one prompt, looked up inside a transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from softprompt_serve.errors import NotFound
from softprompt_serve.registry.tables import AliasRow, VersionRow

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def aliases_of(session: Session, prompt: str) -> list[AliasRow]:
    """The prompt's aliases."""
    return list(session.scalars(select(AliasRow).where(AliasRow.prompt == prompt)))


def live_versions(session: Session, prompt: str) -> dict[str, VersionRow]:
    """The prompt's versions that are not removed, by name, oldest first.

    Raises:
        NotFound: ``prompt_not_found``: it has none.
    """
    query = (
        select(VersionRow)
        .where(VersionRow.prompt == prompt, VersionRow.removed_at.is_(None))
        .order_by(VersionRow.id)
    )
    rows = {row.name: row for row in session.scalars(query)}
    if not rows:
        msg = f"There is no prompt {prompt!r}."
        raise NotFound(msg, code="prompt_not_found", param="prompt")
    return rows


def find_version(rows: dict[str, VersionRow], prompt: str, version: str) -> VersionRow:
    """One of a prompt's versions.

    Raises:
        NotFound: ``version_not_found``.
    """
    if version not in rows:
        msg = f"{prompt} has no version {version!r}; it has {', '.join(rows)}."
        raise NotFound(msg, code="version_not_found", param="version")
    return rows[version]
