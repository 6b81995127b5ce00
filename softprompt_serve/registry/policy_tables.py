"""The table of policies: what each prompt asks of a version before it is promoted."""

from __future__ import annotations

from sqlalchemy import Text
from sqlalchemy.orm import Mapped, mapped_column

from softprompt_serve.registry.tables import Base


class PolicyRow(Base):
    """A prompt's policy as it is now; the audit has those before."""

    __tablename__ = "policies"

    prompt: Mapped[str] = mapped_column(primary_key=True)
    document: Mapped[str] = mapped_column(Text)
    updated_at: Mapped[str]
    updated_by: Mapped[str | None]
