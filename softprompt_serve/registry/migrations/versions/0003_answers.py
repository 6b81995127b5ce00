"""Answers that are remembered for a while, and what was said about them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables; nothing that is there changes."""
    op.create_table(
        "answers",
        sa.Column("response_id", sa.String, primary_key=True),
        sa.Column("trace_id", sa.String),
        sa.Column("span_id", sa.String),
        sa.Column("sampled", sa.Boolean, nullable=False),
        sa.Column("prompt", sa.String, nullable=False),
        sa.Column("version", sa.String, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("arm", sa.String, nullable=False),
        sa.Column("cohort", sa.String, nullable=False),
        sa.Column("route", sa.String, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("compared", sa.Boolean, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_index("ix_answers_trace_id", "answers", ["trace_id"])
    op.create_index("ix_answers_at", "answers", ["at"])
    op.create_table(
        "feedback",
        sa.Column("response_id", sa.String, primary_key=True),
        sa.Column("kind", sa.String, primary_key=True),
        sa.Column("value", sa.Float),
        sa.Column("note", sa.Text),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_table(
        "evaluations",
        sa.Column("response_id", sa.String, primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("passed", sa.Boolean, nullable=False),
        sa.Column("score", sa.Float),
        sa.Column("note", sa.Text),
        sa.Column("at", sa.Float, nullable=False),
    )
