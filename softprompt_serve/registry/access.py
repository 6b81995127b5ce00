"""Access tokens in the catalogue: made, rotated, revoked, listed.

Each change is one transaction, one step of the revision and one audit row, so that it reaches
every replica as a moved alias does. The audit names the token and never holds anything of its
secret, the hash included.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import or_, select, update

from softprompt_serve.access.tokens import AccessToken, Keyring, Minted, mint
from softprompt_serve.errors import Conflict, NotFound
from softprompt_serve.registry.access_tables import AccessTokenRow
from softprompt_serve.registry.audit import Change, step
from softprompt_serve.registry.tables import now

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.orm import Session

    from softprompt_serve.access.scopes import Scope
    from softprompt_serve.registry.database import Database

NO_PROMPT: Final = ""
"""What the audit has as the prompt of a change that is about none."""


class AccessTokens:
    """Every method may raise ``Unavailable`` (``code="catalogue_unavailable"``)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[AccessToken]:
        """All that there ever were, the newest last."""
        with self._database.reading() as session:
            rows = session.scalars(select(AccessTokenRow).order_by(AccessTokenRow.created_at))
            return [row.value() for row in rows]

    def create(
        self,
        name: str,
        scopes: tuple[Scope, ...],
        prompts: tuple[str, ...] = (),
        *,
        expires_at: float | None = None,
        actor: str | None = None,
    ) -> tuple[AccessToken, Minted]:
        """Make a token; the second value alone holds its text.

        Raises:
            Conflict: ``token_exists``: there is, or was, one of that name.
        """
        minted = mint()
        with self._database.writing() as session:
            if session.scalar(select(AccessTokenRow.id).where(AccessTokenRow.name == name)):
                msg = f"There is a token named {name}, or was; names are never used again."
                raise Conflict(msg, code="token_exists", param="name")
            row = AccessTokenRow(
                id=minted.id,
                name=name,
                scopes=json.dumps(scopes),
                prompts=json.dumps(prompts),
                sha256=minted.sha256,
                expires_at=expires_at,
                created_at=now(),
                created_by=actor,
            )
            session.add(row)
            detail = {"scopes": list(scopes), "prompts": list(prompts), "expires_at": expires_at}
            _note(session, "token.created", row, actor, detail)
            return row.value(), minted

    def rotate(
        self, name: str, *, grace_seconds: float = 0.0, actor: str | None = None
    ) -> tuple[AccessToken, Minted]:
        """Give a token a new text; the former one is accepted for ``grace_seconds`` more.

        Raises:
            NotFound, Conflict: as :meth:`revoke`.
        """
        with self._database.writing() as session:
            row = _live(session, name)
            minted = mint(row.id)
            row.previous_sha256 = row.sha256 if grace_seconds else None
            until = self._database.clock(session) + grace_seconds
            row.previous_until = until if grace_seconds else None
            row.sha256 = minted.sha256
            _note(session, "token.rotated", row, actor, {"grace_seconds": grace_seconds})
            return row.value(), minted

    def revoke(self, name: str, *, actor: str | None = None) -> AccessToken:
        """Accept a token no more.

        Raises:
            NotFound: ``token_not_found``.
            Conflict: ``token_revoked``: it was revoked before.
        """
        with self._database.writing() as session:
            row = _live(session, name)
            row.revoked_at, row.previous_sha256, row.previous_until = now(), None, None
            _note(session, "token.revoked", row, actor, {})
            return row.value()

    def used(self, ids: Iterable[str], at: str) -> None:
        """Note that tokens were used at ``at`` (RFC 3339, UTC); never back, and no change."""
        seen = AccessTokenRow.last_used_at
        with self._database.writing(alone=False) as session:
            session.execute(
                update(AccessTokenRow)
                .where(AccessTokenRow.id.in_(list(ids)), or_(seen.is_(None), seen < at))
                .values(last_used_at=at)
            )


def read_keyring(session: Session) -> Keyring:
    """All that are accepted, as this transaction sees them."""
    live = select(AccessTokenRow).where(AccessTokenRow.revoked_at.is_(None))
    return Keyring(row.value() for row in session.scalars(live))


def _live(session: Session, name: str) -> AccessTokenRow:
    row = session.scalar(select(AccessTokenRow).where(AccessTokenRow.name == name))
    if row is None:
        msg = f"There is no token named {name}."
        raise NotFound(msg, code="token_not_found", param="token")
    if row.revoked_at is not None:
        msg = f"The token {name} was revoked at {row.revoked_at}."
        raise Conflict(msg, code="token_revoked", param="token")
    return row


def _note(
    session: Session, action: str, row: AccessTokenRow, actor: str | None, detail: dict[str, Any]
) -> None:
    step(session, Change(actor, action, NO_PROMPT, row.name, {"id": row.id, **detail}))
