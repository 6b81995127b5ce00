"""Rollouts with their history, the replicas that follow them, and what they counted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables; nothing that is there changes."""
    op.create_table(
        "rollouts",
        sa.Column("prompt", sa.String, primary_key=True),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("spec", sa.Text),
        sa.Column("weights", sa.Text, nullable=False),
        sa.Column("step", sa.Integer),
        sa.Column("step_since", sa.Float),
        sa.Column("step_base", sa.Integer, nullable=False),
        sa.Column("updated_at", sa.String, nullable=False),
        sa.Column("updated_by", sa.String),
    )
    op.create_table(
        "rollout_history",
        sa.Column("prompt", sa.String, primary_key=True),
        sa.Column("generation", sa.Integer, primary_key=True),
        sa.Column("spec", sa.Text),
        sa.Column("weights", sa.Text, nullable=False),
        sa.Column("production", sa.String),
        sa.Column("settled", sa.Boolean, nullable=False),
        sa.Column("action", sa.String, nullable=False),
        sa.Column("at", sa.String, nullable=False),
        sa.Column("actor", sa.String),
    )
    op.create_table(
        "rollout_findings",
        sa.Column("prompt", sa.String, primary_key=True),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("data", sa.Text, nullable=False),
    )
    op.create_table(
        "replicas",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("started_at", sa.Float, nullable=False),
        sa.Column("seen_at", sa.Float, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
    )
    op.create_table(
        "replica_rollouts",
        sa.Column("replica", sa.String, primary_key=True),
        sa.Column("prompt", sa.String, primary_key=True),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("resident", sa.Text, nullable=False),
        sa.Column("since", sa.Float, nullable=False),
    )
    op.create_table(
        "tallies",
        sa.Column("prompt", sa.String, primary_key=True),
        sa.Column("epoch", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("replica", sa.String, primary_key=True),
        sa.Column("kind", sa.String, primary_key=True),
        sa.Column("version", sa.String, primary_key=True),
        sa.Column("cohort", sa.String, primary_key=True),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("holder", sa.String, nullable=False),
        sa.Column("expires_at", sa.Float, nullable=False),
    )
