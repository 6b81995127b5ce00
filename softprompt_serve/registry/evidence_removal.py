"""Removes runs of evaluations: one on request, and those that are more or older than are kept.

Each removal is one audit row. A run's id may be added again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import delete, func, select

from softprompt_serve.errors import NotFound
from softprompt_serve.registry.audit import Change, step
from softprompt_serve.registry.evidence_rows import head_of
from softprompt_serve.registry.evidence_tables import (
    EvalAnswerRow,
    ResultRow,
    RunRow,
    RunVersionRow,
    ScoreRow,
    TotalRow,
)
from softprompt_serve.registry.tables import VersionRow
from softprompt_serve.release.policy import BASE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from sqlalchemy.orm import Session

    from softprompt_serve.registry.database import Database
    from softprompt_serve.registry.evidence_rows import Head

ACTOR: Final = "retention"
"""Who removes what is not kept any longer, in the audit."""

_DAY: Final = 86_400.0
_BATCH: Final = 20
"""Runs that are removed in one transaction, so that other changes needn't wait long."""

_PARTS: Final = (ScoreRow, EvalAnswerRow, TotalRow, ResultRow, RunVersionRow)


@dataclass(frozen=True, slots=True)
class Retention:
    """Which runs are kept.

    Attributes:
        runs: of each prompt, the newest ones.
        days: since their end; None is for ever.
    """

    runs: int
    days: float | None = None


def spare(
    heads: Iterable[Head], versions: Collection[str], *, runs: int, since: float
) -> list[tuple[Head, str]]:
    """The runs of a prompt that are not kept any longer, each with why. Pure.

    A version never loses its newest run on a data set by the same evaluators.

    Args:
        heads: the prompt's runs, newest first.
        versions: names of those that exist.
        runs: how many are kept.
        since: Unix time; what ended before is not kept.
    """
    found: list[tuple[Head, str]] = []
    seen: set[tuple[object, ...]] = set()
    for place, head in enumerate(heads):
        run = head.run
        kind = (run.dataset, tuple(sorted(run.evaluators.items())))
        newest = {(version, kind) for version in run.digests if version in versions} - seen
        seen |= newest
        if not newest and place >= runs:
            found.append((head, f"{runs:,} runs are newer"))
        elif not newest and run.at < since:
            found.append((head, "too old"))
    return found


class Removal:
    """Every method may raise ``Unavailable`` (``code="catalogue_unavailable"``)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def remove(self, prompt: str, run_id: str, *, actor: str | None = None) -> Head:
        """Remove one run, whatever it is; returns what it was.

        Raises:
            NotFound: ``run_not_found``.
        """
        with self._database.writing() as session:
            row = session.get(RunRow, run_id)
            if row is None or row.prompt != prompt:
                raise no_run(prompt, run_id)
            head = head_of(row)
            _remove(session, head, actor, "on request")
            return head

    def tidy(self, retention: Retention) -> int:
        """Remove what is not kept any longer, of all prompts; how many runs that was."""
        removed = 0
        for prompt in self._crowded(retention):
            while taken := self._tidy(prompt, retention):
                removed += taken
        return removed

    def _crowded(self, retention: Retention) -> list[str]:
        """Prompts that have more or older runs than are kept, were there no exceptions."""
        with self._database.reading() as session:
            since = self._since(session, retention)
            query = select(RunRow.prompt).group_by(RunRow.prompt).order_by(RunRow.prompt)
            many, old = func.count() > retention.runs, func.min(RunRow.at) < since
            return list(session.scalars(query.having(many | old)))

    def _tidy(self, prompt: str, retention: Retention) -> int:
        newest_first = (RunRow.at.desc(), RunRow.id)
        query = select(RunRow).where(RunRow.prompt == prompt).order_by(*newest_first)
        exist = select(VersionRow.name).where(
            VersionRow.prompt == prompt, VersionRow.removed_at.is_(None)
        )
        with self._database.writing() as session:
            found = spare(
                [head_of(row) for row in session.scalars(query)],
                {*session.scalars(exist), BASE},
                runs=retention.runs,
                since=self._since(session, retention),
            )[:_BATCH]
            for head, why in found:
                _remove(session, head, ACTOR, why)
            return len(found)

    def _since(self, session: Session, retention: Retention) -> float:
        if retention.days is None:
            return 0.0
        return self._database.clock(session) - retention.days * _DAY


def no_run(prompt: str, run_id: str) -> NotFound:
    """What is raised where a prompt has no such run: ``run_not_found``."""
    return NotFound(f"{prompt} has no run {run_id}.", code="run_not_found", param="run")


def _remove(session: Session, head: Head, actor: str | None, why: str) -> None:
    run = head.run
    for table in _PARTS:
        session.execute(delete(table).where(table.run == run.id))
    session.execute(delete(RunRow).where(RunRow.id == run.id))
    detail = {**head.told(), "why": why}
    step(session, Change(actor, "evaluation.remove", run.prompt, run.id, detail))
