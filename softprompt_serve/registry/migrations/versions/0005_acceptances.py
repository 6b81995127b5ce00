"""On which base models each version was accepted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table; of versions that are there, their records alone say what they are for."""
    op.create_table(
        "acceptances",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("prompt", sa.String, nullable=False),
        sa.Column("version", sa.String, nullable=False),
        sa.Column("fingerprint", sa.String),
        sa.Column("tokenizer_fingerprint", sa.String),
        sa.Column("chat_template_sha256", sa.String),
        sa.Column("how", sa.String, nullable=False),
        sa.Column("at", sa.String, nullable=False),
        sa.Column("actor", sa.String),
    )
    op.create_index("ix_acceptances_prompt", "acceptances", ["prompt", "version"])
