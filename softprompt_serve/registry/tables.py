"""The catalogue's tables, as SQLAlchemy's typed ORM; migrations/ creates them.

Prompts have no row of their own: a prompt exists while it has a version that isn't removed.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, cast

from sqlalchemy import MetaData, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from softprompt_serve.registry.snapshot import Version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from softprompt_serve.artifact.content import Kind


class ContentMeta(Protocol):
    """What the catalogue keeps of a content; ``artifact.Content`` is one."""

    @property
    def digest(self) -> str:
        """SHA-256, hex."""

    @property
    def kind(self) -> Kind:
        """``soft``, ``hard`` or ``base``."""

    @property
    def virtual_tokens(self) -> int:
        """N; 0 unless soft."""

    @property
    def hidden_size(self) -> int:
        """Columns; 0 unless soft."""

    @property
    def dtype(self) -> str | None:
        """The tensor's dtype; None unless soft."""

    @property
    def text(self) -> str | None:
        """The text, if it has one."""


class Base(DeclarativeBase):
    """Base of all tables; constraint names are fixed so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class StateRow(Base):
    """The one row that holds the catalogue's revision."""

    __tablename__ = "state"

    id: Mapped[int] = mapped_column(primary_key=True)
    revision: Mapped[int]


class VersionRow(Base):
    """A version, or the tombstone of a removed one (``removed_at`` set, text cleared)."""

    __tablename__ = "versions"

    id: Mapped[int] = mapped_column(primary_key=True)
    prompt: Mapped[str]
    name: Mapped[str]
    digest: Mapped[str]
    kind: Mapped[str]
    virtual_tokens: Mapped[int]
    hidden_size: Mapped[int]
    dtype: Mapped[str | None]
    text: Mapped[str | None] = mapped_column(Text)
    wanted: Mapped[bool]
    record: Mapped[str] = mapped_column(Text)
    created_at: Mapped[str]
    created_by: Mapped[str | None]
    removed_at: Mapped[str | None]

    def fill(self, content: ContentMeta) -> None:
        """Take over what a content says, and be a version that answers."""
        self.digest, self.kind, self.text = content.digest, content.kind, content.text
        self.virtual_tokens, self.hidden_size = content.virtual_tokens, content.hidden_size
        self.dtype, self.wanted = content.dtype, True
        self.created_at, self.removed_at = now(), None

    def value(self) -> Version:
        """The row as a plain value."""
        return Version(
            prompt=self.prompt,
            version=self.name,
            digest=self.digest,
            kind=cast("Kind", self.kind),
            virtual_tokens=self.virtual_tokens,
            hidden_size=self.hidden_size,
            dtype=self.dtype,
            text=self.text,
            wanted=self.wanted,
            created_at=self.created_at,
            created_by=self.created_by,
            record=MappingProxyType(json.loads(self.record)),
        )


class AliasRow(Base):
    """An alias of a version of the same prompt."""

    __tablename__ = "aliases"

    prompt: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str]


class AuditRow(Base):
    """One change: the revision it made, who asked for it and what it was."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(primary_key=True)
    revision: Mapped[int]
    at: Mapped[str]
    actor: Mapped[str | None]
    action: Mapped[str]
    prompt: Mapped[str]
    subject: Mapped[str]
    detail: Mapped[str] = mapped_column(Text)


def now() -> str:
    """The time, RFC 3339 in UTC with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def to_json(value: Mapping[str, Any]) -> str:
    """JSON as it is stored; NaN and infinities are refused with ValueError."""
    return json.dumps(dict(value), sort_keys=True, ensure_ascii=False, allow_nan=False)
