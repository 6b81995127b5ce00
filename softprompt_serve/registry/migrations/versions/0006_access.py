"""Access tokens: who may do what, kept as hashes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table; nothing that is there changes."""
    op.create_table(
        "access_tokens",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("prompts", sa.Text, nullable=False),
        sa.Column("sha256", sa.String, nullable=False),
        sa.Column("previous_sha256", sa.String),
        sa.Column("previous_until", sa.Float),
        sa.Column("expires_at", sa.Float),
        sa.Column("created_at", sa.String, nullable=False),
        sa.Column("created_by", sa.String),
        sa.Column("revoked_at", sa.String),
        sa.Column("last_used_at", sa.String),
        sa.UniqueConstraint("name", name="uq_access_tokens_name"),
        sa.UniqueConstraint("sha256", name="uq_access_tokens_sha256"),
    )
