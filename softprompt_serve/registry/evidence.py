"""Runs of evaluations in the catalogue: each is added once, whole, and never changes.

:mod:`~softprompt_serve.registry.evidence_removal` takes them away again.

A version's evidence stays when the version goes: its digest says what it was about, and the name
means that digest for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import func, insert, select

from softprompt_serve.artifact.content import Content
from softprompt_serve.errors import BadRequest, Conflict
from softprompt_serve.registry.audit import Change, step
from softprompt_serve.registry.evidence_choice import whole
from softprompt_serve.registry.evidence_rows import Rows, canonical, head_of, run_of
from softprompt_serve.registry.evidence_tables import ResultRow, RunRow, RunVersionRow, TotalRow
from softprompt_serve.registry.lookup import find_version, live_versions
from softprompt_serve.registry.tables import StateRow
from softprompt_serve.registry.upsert import inserting
from softprompt_serve.release.policy import BASE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from sqlalchemy import Select
    from sqlalchemy.orm import Session

    from softprompt_serve.registry.database import Database
    from softprompt_serve.registry.evidence_rows import Head
    from softprompt_serve.release.evidence import Run

FUTURE_SECONDS: Final = 300.0
"""By how much the clock of whoever ran an evaluation may be ahead."""

MAX_WEIGHED: Final = 1000
"""Of how many runs a judgement knows, the newest ones."""

_PLAIN: Final = Content(BASE).digest
"""Of the plain base model: it is evaluated as ``base`` where no version has that name."""

_BATCH: Final = 5000
"""Rows for one statement, which PostgreSQL has seconds for."""


@dataclass(frozen=True, slots=True)
class Result:
    """What the newest run found about a version by one evaluator on one data set.

    Attributes:
        prompt, version: names.
        cohort: which items; None is all of them, of a result known as a mean alone.
        dataset, dataset_sha256: the data set.
        evaluator: the evaluator's name.
        items: how many were scored.
        passed: how many of them passed; None where only the mean is known.
        unanswered: how many more got no answer, so that nothing could be scored.
        mean: of the scores, or None without any.
        stderr: the mean's standard error, where that was told.
        run: the run's id.
        at: Unix time of its end.
    """

    prompt: str
    version: str
    cohort: str | None
    dataset: str
    dataset_sha256: str
    evaluator: str
    items: int
    passed: int | None
    unanswered: int
    mean: float | None
    stderr: float | None
    run: str
    at: float

    @property
    def failed(self) -> int | None:
        """How many of the items failed."""
        return None if self.passed is None else self.items - self.passed

    @property
    def fail_rate(self) -> float | None:
        """Which part of the items failed, from 0 to 1; None without items or verdicts."""
        return None if self.failed is None or not self.items else self.failed / self.items


class Evidence:
    """Every method may raise ``Unavailable`` (``code="catalogue_unavailable"``)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, run: Run, *, actor: str | None = None) -> bool:
        """Keep a run, all of it or nothing; False if it was there already.

        Args:
            run: what :func:`~softprompt_serve.release.evidence_shapes.parse_run` accepts.
            actor: who adds it; else who ran it.

        Raises:
            NotFound: ``prompt_not_found`` or ``version_not_found``.
            Conflict: ``digest_mismatch``: a version is not what was evaluated; ``run_exists``:
                another run has that id.
            BadRequest: ``invalid_run``: it ends in the future.
        """
        rows = Rows.of(run)
        # The lock that all changes take is taken last: writing this many rows takes a while.
        with self._database.writing(alone=False) as session:
            if not self._begin(session, rows.head):
                if run_of(session, rows.head["id"]) == canonical(run):
                    return False
                msg = f"There is another run {run.id}; a run never changes, and a new one needs an "
                raise Conflict(msg + "id of its own.", code="run_exists", param="id")
            self._check(session, run)
            for table, found in rows.parts:
                for at in range(0, len(found), _BATCH):
                    session.execute(insert(table.__table__), found[at : at + _BATCH])  # type: ignore[arg-type]
            session.get(StateRow, 1, with_for_update=True)
            who = run.actor if actor is None else actor
            told = rows.counted.told()
            step(session, Change(who, "evaluation.add", run.prompt, run.id, told))
            return True

    def heads(
        self,
        prompt: str,
        *,
        dataset: str | None = None,
        version: str | None = None,
        limit: int = 100,
    ) -> list[Head]:
        """The newest ``limit`` runs first, without what they found."""
        with self._database.reading() as session:
            found = session.scalars(_newest(prompt, dataset, version).limit(limit))
            return [head_of(row) for row in found]

    def runs(
        self,
        prompt: str,
        *,
        dataset: str | None = None,
        version: str | None = None,
        limit: int = 100,
    ) -> list[Run]:
        """The newest ``limit`` runs first, whole; their parts by item, version and evaluator."""
        with self._database.reading() as session:
            found = session.scalars(_newest(prompt, dataset, version).limit(limit))
            runs = (run_of(session, row.id) for row in found.all())
            return [run for run in runs if run is not None]

    def run(self, run_id: str) -> Run | None:
        """One run, as of :meth:`runs`."""
        with self._database.reading() as session:
            return run_of(session, run_id)

    def weighed(self, prompt: str, versions: Collection[str], *, since: float) -> list[Run]:
        """All that a judgement of some versions looks at, newest first.

        Runs whose scores can't matter to it are there without them; see
        :func:`~softprompt_serve.registry.evidence_choice.whole`, also for the arguments.
        """
        with self._database.reading() as session:
            found = session.scalars(_newest(prompt, None, None).limit(MAX_WEIGHED))
            heads = [head_of(row) for row in found]
            read = whole(heads, versions, since=since)
            return [
                (run_of(session, head.run.id) if head.run.id in read else None) or head.run
                for head in heads
            ]

    def mark(self) -> tuple[int, float]:
        """Another one, once runs of any prompt were added or removed: their number, and times."""
        with self._database.reading() as session:
            count, at = session.execute(select(func.count(), func.sum(RunRow.at))).one()
            return count, at or 0.0

    def summary(self, prompt: str | None = None) -> list[Result]:
        """What is known of each version in each cohort, from the newest run of its kind.

        Of one kind are runs of one data set with one evaluator; those of all prompts for None.
        """
        with self._database.reading() as session:
            found = [*_results(session, prompt), *_totals(session, prompt)]
        key = ("prompt", "version", "dataset", "evaluator")
        found.sort(key=lambda r: (*(getattr(r, name) for name in key), r.cohort or ""))
        return found

    def _begin(self, session: Session, head: dict[str, Any]) -> bool:
        """Write the run's own row; False if that id is taken, also by who is just about to."""
        statement = inserting(session, RunRow).values(**head).on_conflict_do_nothing()
        return session.execute(statement.returning(RunRow.id)).first() is not None

    def _check(self, session: Session, run: Run) -> None:
        if run.at > self._database.clock(session) + FUTURE_SECONDS:
            msg = f"The run {run.id} ends in the future; is the clock right where it was run?"
            raise BadRequest(msg, code="invalid_run", param="at")
        live = live_versions(session, run.prompt)
        for version, digest in run.digests.items():
            if version == BASE and BASE not in live:
                present = _PLAIN
            else:
                present = find_version(live, run.prompt, version).digest
            if present != digest:
                msg = (
                    f"{run.prompt}@{version} has the digest {present[:12]} here, not {digest[:12]}: "
                    "this run is about something else."
                )
                raise Conflict(msg, code="digest_mismatch", param=f"digests.{version}")


def _newest(prompt: str, dataset: str | None, version: str | None) -> Select[RunRow]:
    query = select(RunRow).where(RunRow.prompt == prompt)
    if dataset is not None:
        query = query.where(RunRow.dataset == dataset)
    if version is not None:
        asked = select(RunVersionRow.run).where(RunVersionRow.version == version)
        query = query.where(RunRow.id.in_(asked))
    return query.order_by(RunRow.at.desc(), RunRow.id)


def _latest(table: type[ResultRow | TotalRow], prompt: str | None) -> Any:
    """Rows of a table that belong to the newest run of their kind, each with its run."""
    newest_first = (RunRow.at.desc(), RunRow.id)
    kind = (RunRow.prompt, RunRow.dataset, table.version, table.evaluator)
    place = func.rank().over(partition_by=kind, order_by=newest_first).label("place")
    columns = (RunRow.prompt, RunRow.dataset, RunRow.dataset_sha256, RunRow.at, table.__table__)
    query = select(*columns, place).join(RunRow, RunRow.id == table.run)
    if prompt is not None:
        query = query.where(RunRow.prompt == prompt)
    ranked = query.subquery()
    return select(ranked).where(ranked.c.place == 1)


def _results(session: Session, prompt: str | None) -> Iterator[Result]:
    for row in session.execute(_latest(ResultRow, prompt)).mappings():
        known = {name: value for name, value in row.items() if name != "place"}
        yield Result(**known, stderr=None)


def _totals(session: Session, prompt: str | None) -> Iterator[Result]:
    for row in session.execute(_latest(TotalRow, prompt)).mappings():
        known = {name: value for name, value in row.items() if name != "place"}
        yield Result(**known, cohort=None, passed=None, unanswered=0)
