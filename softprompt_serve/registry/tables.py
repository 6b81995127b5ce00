"""The catalogue's tables, as SQLAlchemy's typed ORM; migrations/ creates them.

Prompts have no row of their own: a prompt exists while it has a version that isn't removed.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, cast

from sqlalchemy import MetaData, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from softprompt_serve.registry.snapshot import Rollout, Version
from softprompt_serve.rollout.spec import RolloutSpec
from softprompt_serve.router.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from softprompt_serve.artifact.content import Kind
    from softprompt_serve.registry.snapshot import RolloutState
    from softprompt_serve.release.drift import Acceptance


class ContentMeta(Protocol):
    """What the catalogue keeps of a content; ``artifact.Content`` is one."""

    @property
    def digest(self) -> str:
        """SHA-256, hex."""

    @property
    def kind(self) -> Kind:
        """``soft``, ``prefix``, ``hard`` or ``base``."""

    @property
    def virtual_tokens(self) -> int:
        """N; 0 unless learned."""

    @property
    def hidden_size(self) -> int:
        """Columns; 0 unless soft."""

    @property
    def dtype(self) -> str | None:
        """The tensor's dtype; None unless learned."""

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

    def value(self, accepted: tuple[Acceptance, ...] = ()) -> Version:
        """The row as a plain value, with what other rows say of it."""
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
            accepted=accepted,
        )


class AliasRow(Base):
    """An alias of a version of the same prompt."""

    __tablename__ = "aliases"

    prompt: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str]


class RolloutRow(Base):
    """A prompt's rollout as it is now; the row stays after a removal, for its generation."""

    __tablename__ = "rollouts"

    prompt: Mapped[str] = mapped_column(primary_key=True)
    generation: Mapped[int]
    epoch: Mapped[int]
    state: Mapped[str]
    reason: Mapped[str] = mapped_column(Text)
    spec: Mapped[str | None] = mapped_column(Text)
    weights: Mapped[str] = mapped_column(Text)
    step: Mapped[int | None]
    step_since: Mapped[float | None]
    step_base: Mapped[int]
    updated_at: Mapped[str]
    updated_by: Mapped[str | None]

    def value(self) -> Rollout:
        """The row as a plain value, with its plan."""
        spec, weights, plan = _compiled(self.prompt, self.spec, self.weights)
        return Rollout(
            generation=self.generation,
            epoch=self.epoch,
            state=cast("RolloutState", self.state),
            reason=self.reason,
            spec=spec,
            weights=weights,
            plan=plan,
            step=self.step,
            step_since=self.step_since,
            step_base=self.step_base,
            updated_at=self.updated_at,
            updated_by=self.updated_by,
        )


@lru_cache(maxsize=20_000)
def _compiled(
    prompt: str, spec: str | None, weights: str
) -> tuple[RolloutSpec | None, Mapping[str, int], Plan | None]:
    """What a row's JSON says; kept, because each change of any prompt reads all of them again."""
    document = None if spec is None else RolloutSpec.model_validate_json(spec)
    shares: dict[str, int] = json.loads(weights)
    plan = None if document is None else Plan.of(prompt, document, shares)
    return document, MappingProxyType(shares), plan


class RolloutHistoryRow(Base):
    """Each state that a prompt's traffic was in, with the ``production`` of that time.

    ``settled``: one version had all of the split. A rollback returns to such a state.
    """

    __tablename__ = "rollout_history"

    prompt: Mapped[str] = mapped_column(primary_key=True)
    generation: Mapped[int] = mapped_column(primary_key=True)
    spec: Mapped[str | None] = mapped_column(Text)
    weights: Mapped[str] = mapped_column(Text)
    production: Mapped[str | None]
    settled: Mapped[bool]
    action: Mapped[str]
    at: Mapped[str]
    actor: Mapped[str | None]


class FindingsRow(Base):
    """What the progression's controller saw last; written often, so it steps no revision."""

    __tablename__ = "rollout_findings"

    prompt: Mapped[str] = mapped_column(primary_key=True)
    epoch: Mapped[int]
    at: Mapped[float]
    data: Mapped[str] = mapped_column(Text)


class ReplicaRow(Base):
    """One API server process: when it was seen last, and which revision it serves."""

    __tablename__ = "replicas"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    started_at: Mapped[float]
    seen_at: Mapped[float]
    revision: Mapped[int]


class ReplicaRolloutRow(Base):
    """What one replica serves of one rollout, since when, and which of its versions it holds."""

    __tablename__ = "replica_rollouts"

    replica: Mapped[str] = mapped_column(primary_key=True)
    prompt: Mapped[str] = mapped_column(primary_key=True)
    generation: Mapped[int]
    resident: Mapped[str] = mapped_column(Text)
    since: Mapped[float]


class TallyRow(Base):
    """What one replica has counted of one arm and cohort since an epoch began; grows only."""

    __tablename__ = "tallies"

    prompt: Mapped[str] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    replica: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str] = mapped_column(primary_key=True)
    cohort: Mapped[str] = mapped_column(primary_key=True)
    data: Mapped[str] = mapped_column(Text)
    at: Mapped[float]


class LeaseRow(Base):
    """Who may act alone, and until when (Unix time, the database's clock)."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str]
    expires_at: Mapped[float]


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
