"""Tables of evaluation runs. A row is written once and never changed.

``eval_results`` holds what follows from the scores of the same run, so that nobody has to count
them again at each look.
"""

from __future__ import annotations

from sqlalchemy import Index, Text
from sqlalchemy.orm import Mapped, mapped_column

from softprompt_serve.registry.tables import Base

_CLUSTERED = {"sqlite_with_rowid": False}
"""Many short rows that are read by their key: SQLite keeps them in its order, once."""


class RunRow(Base):
    """One run, without what was found."""

    __tablename__ = "eval_runs"
    __table_args__ = (Index("ix_eval_runs_prompt", "prompt", "at"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    prompt: Mapped[str]
    dataset: Mapped[str]
    dataset_sha256: Mapped[str]
    source: Mapped[str]
    at: Mapped[float]
    actor: Mapped[str | None]
    base: Mapped[str] = mapped_column(Text)
    sampling: Mapped[str] = mapped_column(Text)
    evaluators: Mapped[str] = mapped_column(Text)
    digests: Mapped[str] = mapped_column(Text)
    items: Mapped[int]
    scores: Mapped[int]
    answers: Mapped[int]
    totals: Mapped[int]


class RunVersionRow(Base):
    """A version that a run asked, and the digest that it had."""

    __tablename__ = "eval_versions"
    __table_args__ = _CLUSTERED

    run: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str]


class ScoreRow(Base):
    """See :class:`~softprompt_serve.release.evidence.Score`."""

    __tablename__ = "eval_scores"
    __table_args__ = _CLUSTERED

    run: Mapped[str] = mapped_column(primary_key=True)
    item: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str] = mapped_column(primary_key=True)
    evaluator: Mapped[str] = mapped_column(primary_key=True)
    cohort: Mapped[str]
    value: Mapped[float]
    passed: Mapped[bool]


class EvalAnswerRow(Base):
    """See :class:`~softprompt_serve.release.evidence.Answer`."""

    __tablename__ = "eval_answers"
    __table_args__ = _CLUSTERED

    run: Mapped[str] = mapped_column(primary_key=True)
    item: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str] = mapped_column(primary_key=True)
    cohort: Mapped[str]
    ttft_seconds: Mapped[float | None]
    e2e_seconds: Mapped[float | None]
    visible_tokens: Mapped[int | None]
    virtual_tokens: Mapped[int | None]
    output_tokens: Mapped[int | None]
    cost_usd: Mapped[float | None]
    error: Mapped[str | None]
    sha256: Mapped[str | None]


class TotalRow(Base):
    """See :class:`~softprompt_serve.release.evidence.Total`."""

    __tablename__ = "eval_totals"
    __table_args__ = _CLUSTERED

    run: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str] = mapped_column(primary_key=True)
    evaluator: Mapped[str] = mapped_column(primary_key=True)
    mean: Mapped[float]
    stderr: Mapped[float | None]
    items: Mapped[int]


class ResultRow(Base):
    """What one run found about one version in one cohort by one evaluator, in all.

    ``mean`` is NULL without items; ``unanswered`` counts items that nobody could score.
    """

    __tablename__ = "eval_results"
    __table_args__ = _CLUSTERED

    run: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str] = mapped_column(primary_key=True)
    cohort: Mapped[str] = mapped_column(primary_key=True)
    evaluator: Mapped[str] = mapped_column(primary_key=True)
    items: Mapped[int]
    passed: Mapped[int]
    unanswered: Mapped[int]
    mean: Mapped[float | None]
