"""What evaluations found about versions, and what prompts ask of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def _key(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.String, primary_key=True) for name in names]


def upgrade() -> None:
    """Create the tables; nothing that is there changes."""
    _create_runs()
    _create_parts()
    op.create_table(
        "eval_results",
        *_key("run", "version", "cohort", "evaluator"),
        sa.Column("items", sa.Integer, nullable=False),
        sa.Column("passed", sa.Integer, nullable=False),
        sa.Column("unanswered", sa.Integer, nullable=False),
        sa.Column("mean", sa.Float),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "policies",
        *_key("prompt"),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("updated_at", sa.String, nullable=False),
        sa.Column("updated_by", sa.String),
    )


def _create_runs() -> None:
    op.create_table(
        "eval_runs",
        *_key("id"),
        sa.Column("prompt", sa.String, nullable=False),
        sa.Column("dataset", sa.String, nullable=False),
        sa.Column("dataset_sha256", sa.String, nullable=False),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("actor", sa.String),
        sa.Column("base", sa.Text, nullable=False),
        sa.Column("sampling", sa.Text, nullable=False),
        sa.Column("evaluators", sa.Text, nullable=False),
        sa.Column("digests", sa.Text, nullable=False),
        sa.Column("items", sa.Integer, nullable=False),
        sa.Column("scores", sa.Integer, nullable=False),
        sa.Column("answers", sa.Integer, nullable=False),
        sa.Column("totals", sa.Integer, nullable=False),
    )
    op.create_index("ix_eval_runs_prompt", "eval_runs", ["prompt", "at"])
    op.create_table(
        "eval_versions",
        *_key("run", "version"),
        sa.Column("digest", sa.String, nullable=False),
        sqlite_with_rowid=False,
    )


def _create_parts() -> None:
    op.create_table(
        "eval_scores",
        *_key("run", "item", "version", "evaluator"),
        sa.Column("cohort", sa.String, nullable=False),
        sa.Column("value", sa.Float, nullable=False),
        sa.Column("passed", sa.Boolean, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "eval_answers",
        *_key("run", "item", "version"),
        sa.Column("cohort", sa.String, nullable=False),
        sa.Column("ttft_seconds", sa.Float),
        sa.Column("e2e_seconds", sa.Float),
        sa.Column("visible_tokens", sa.Integer),
        sa.Column("virtual_tokens", sa.Integer),
        sa.Column("output_tokens", sa.Integer),
        sa.Column("cost_usd", sa.Float),
        sa.Column("error", sa.String),
        sa.Column("sha256", sa.String),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "eval_totals",
        *_key("run", "version", "evaluator"),
        sa.Column("mean", sa.Float, nullable=False),
        sa.Column("stderr", sa.Float),
        sa.Column("items", sa.Integer, nullable=False),
        sqlite_with_rowid=False,
    )
