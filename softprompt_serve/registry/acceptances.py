"""On which base models versions were found good. Rows are added, and never changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Index, select
from sqlalchemy.orm import Mapped, mapped_column

from softprompt_serve.registry.audit import Change, step
from softprompt_serve.registry.lookup import find_version, live_versions
from softprompt_serve.registry.tables import Base, now
from softprompt_serve.release.drift import Acceptance, Prints

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sqlalchemy.orm import Session

    from softprompt_serve.registry.database import Database
    from softprompt_serve.release.drift import How


class AcceptanceRow(Base):
    """A version was found good on a base model; a fingerprint that is not known is null."""

    __tablename__ = "acceptances"
    __table_args__ = (Index("ix_acceptances_prompt", "prompt", "version"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    prompt: Mapped[str]
    version: Mapped[str]
    fingerprint: Mapped[str | None]
    tokenizer_fingerprint: Mapped[str | None]
    chat_template_sha256: Mapped[str | None]
    how: Mapped[str]
    at: Mapped[str]
    actor: Mapped[str | None]

    def value(self) -> Acceptance:
        """The row as a plain value."""
        on = Prints(self.fingerprint, self.tokenizer_fingerprint, self.chat_template_sha256)
        return Acceptance(on, cast("How", self.how))


class Acceptances:
    """Every method may raise ``Unavailable`` (``code="catalogue_unavailable"``)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        prompt: str,
        version: str,
        acceptance: Acceptance,
        *,
        actor: str | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> bool:
        """Accept a version on a base model; False if it was already, and nothing has changed.

        Args:
            prompt: its prompt's name.
            version: its own.
            acceptance: on what, and how.
            actor: who says so.
            detail: what else the audit shall say.

        Raises:
            NotFound: ``prompt_not_found`` or ``version_not_found``.
        """
        with self._database.writing() as session:
            row = find_version(live_versions(session, prompt), prompt, version)
            if not accept(session, prompt, version, acceptance, actor):
                return False
            told = {"digest": row.digest, "how": acceptance.how, "weights": acceptance.on.weights}
            step(
                session,
                Change(actor, "version.accepted", prompt, version, told | dict(detail or {})),
            )
            return True


def accept(
    session: Session, prompt: str, version: str, acceptance: Acceptance, actor: str | None
) -> bool:
    """Add a row within a change; False if there is one for the same base model."""
    if any(one.on == acceptance.on for one in _of(session, prompt, version)):
        return False
    weights, tokenizer, template = acceptance.on.parts()
    session.add(
        AcceptanceRow(
            prompt=prompt,
            version=version,
            fingerprint=weights,
            tokenizer_fingerprint=tokenizer,
            chat_template_sha256=template,
            how=acceptance.how,
            at=now(),
            actor=actor,
        )
    )
    return True


def acceptances(
    session: Session, prompts: Collection[str] | None
) -> dict[tuple[str, str], tuple[Acceptance, ...]]:
    """By ``(prompt, version)``, oldest first; of all prompts, or of those that are named."""
    query = select(AcceptanceRow).order_by(AcceptanceRow.id)
    if prompts is not None:
        query = query.where(AcceptanceRow.prompt.in_(prompts))
    found: dict[tuple[str, str], tuple[Acceptance, ...]] = {}
    for row in session.scalars(query):
        key = row.prompt, row.version
        found[key] = (*found.get(key, ()), row.value())
    return found


def _of(session: Session, prompt: str, version: str) -> list[Acceptance]:
    query = select(AcceptanceRow).where(
        AcceptanceRow.prompt == prompt, AcceptanceRow.version == version
    )
    return [row.value() for row in session.scalars(query)]
