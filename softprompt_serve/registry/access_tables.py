"""The table of access tokens: what they may do, and hashes of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

from sqlalchemy import Text
from sqlalchemy.orm import Mapped, mapped_column

from softprompt_serve.access.tokens import AccessToken
from softprompt_serve.registry.tables import Base

if TYPE_CHECKING:
    from softprompt_serve.access.scopes import Scope


class AccessTokenRow(Base):
    """A token; one that was revoked stays, so that its name never means another."""

    __tablename__ = "access_tokens"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    scopes: Mapped[str] = mapped_column(Text)
    prompts: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str]
    previous_sha256: Mapped[str | None]
    previous_until: Mapped[float | None]
    expires_at: Mapped[float | None]
    created_at: Mapped[str]
    created_by: Mapped[str | None]
    revoked_at: Mapped[str | None]
    last_used_at: Mapped[str | None]

    def value(self) -> AccessToken:
        """The row as a plain value."""
        return AccessToken(
            id=self.id,
            name=self.name,
            scopes=cast("tuple[Scope, ...]", tuple(json.loads(self.scopes))),
            prompts=tuple(json.loads(self.prompts)),
            sha256=self.sha256,
            previous_sha256=self.previous_sha256,
            previous_until=self.previous_until,
            expires_at=self.expires_at,
            created_at=self.created_at,
            created_by=self.created_by,
            revoked_at=self.revoked_at,
            last_used_at=self.last_used_at,
        )
