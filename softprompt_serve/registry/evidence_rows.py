"""Between a run and its rows, both ways."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict, dataclass, fields, replace
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from sqlalchemy import select

from softprompt_serve.registry.evidence_tables import (
    EvalAnswerRow,
    ResultRow,
    RunRow,
    RunVersionRow,
    ScoreRow,
    TotalRow,
)
from softprompt_serve.registry.tables import to_json
from softprompt_serve.release.evidence import Answer, Base, Run, Score, Source, Total

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy.orm import Session

    from softprompt_serve.registry import tables

Part = TypeVar("Part", Score, Answer, Total)

_ORDERS: Final[Mapping[type, Any]] = {
    Score: attrgetter("item", "version", "evaluator"),
    Answer: attrgetter("item", "version"),
    Total: attrgetter("version", "evaluator"),
}


@dataclass(frozen=True, slots=True)
class Head:
    """A run without what it found.

    Attributes:
        run: the run; its scores, answers and totals are left out.
        items: how many items of the data set it asked.
        scores, answers, totals: how many of each it has.
    """

    run: Run
    items: int
    scores: int
    answers: int
    totals: int

    @classmethod
    def of(cls, run: Run) -> Head:
        """The head of a whole run."""
        items = {score.item for score in run.scores} | {answer.item for answer in run.answers}
        bare = replace(run, scores=(), answers=(), totals=())
        return cls(bare, len(items), len(run.scores), len(run.answers), len(run.totals))

    def told(self) -> dict[str, Any]:
        """What the audit says of it."""
        return {
            "dataset": self.run.dataset,
            "versions": sorted(self.run.digests),
            "items": self.items,
            "source": self.run.source,
        }


@dataclass(frozen=True, slots=True)
class Rows:
    """A run as rows.

    Attributes:
        counted: the run without what it found.
        head: the values of its own row.
        parts: each other table with its rows.
    """

    counted: Head
    head: dict[str, Any]
    parts: tuple[tuple[type[tables.Base], list[dict[str, Any]]], ...]

    @classmethod
    def of(cls, run: Run) -> Rows:
        """All rows of a run, in the order of their keys."""
        run = canonical(run)
        counted = Head.of(run)
        head = {
            "id": run.id,
            "prompt": run.prompt,
            "dataset": run.dataset,
            "dataset_sha256": run.dataset_sha256,
            "source": run.source,
            "at": run.at,
            "actor": run.actor,
            "base": to_json(asdict(run.base)),
            "sampling": to_json(run.sampling),
            "evaluators": to_json(run.evaluators),
            "digests": to_json(run.digests),
            "items": counted.items,
            "scores": counted.scores,
            "answers": counted.answers,
            "totals": counted.totals,
        }
        versions = [
            {"run": run.id, "version": version, "digest": digest}
            for version, digest in run.digests.items()
        ]
        return cls(
            counted,
            head,
            (
                (RunVersionRow, versions),
                (ScoreRow, _rows(run.id, run.scores)),
                (EvalAnswerRow, _rows(run.id, run.answers)),
                (TotalRow, _rows(run.id, run.totals)),
                (ResultRow, _results(run)),
            ),
        )


def canonical(run: Run) -> Run:
    """The run with its parts in the order in which they are read."""
    return replace(
        run,
        scores=_ordered(Score, run.scores),
        answers=_ordered(Answer, run.answers),
        totals=_ordered(Total, run.totals),
    )


def head_of(row: RunRow) -> Head:
    """What a run's own row says."""
    run = Run(
        id=row.id,
        prompt=row.prompt,
        dataset=row.dataset,
        dataset_sha256=row.dataset_sha256,
        digests=MappingProxyType(json.loads(row.digests)),
        evaluators=MappingProxyType(json.loads(row.evaluators)),
        base=Base(**json.loads(row.base)),
        at=row.at,
        source=cast("Source", row.source),
        sampling=MappingProxyType(json.loads(row.sampling)),
        actor=row.actor,
    )
    return Head(run, row.items, row.scores, row.answers, row.totals)


def run_of(session: Session, run_id: str) -> Run | None:
    """A run, whole and canonical, or None."""
    row = session.get(RunRow, run_id)
    if row is None:
        return None
    return replace(
        head_of(row).run,
        scores=_read(session, ScoreRow, Score, run_id),
        answers=_read(session, EvalAnswerRow, Answer, run_id),
        totals=_read(session, TotalRow, Total, run_id),
    )


def _ordered(kind: type[Part], parts: Iterable[Part]) -> tuple[Part, ...]:
    return tuple(sorted(parts, key=_ORDERS[kind]))


def _read(
    session: Session, table: type[ScoreRow | EvalAnswerRow | TotalRow], kind: type[Part], run: str
) -> tuple[Part, ...]:
    columns = [getattr(table, field.name) for field in fields(kind)]
    found = session.execute(select(*columns).where(table.run == run))
    # Ordered here, because databases order texts by rules of their own.
    return _ordered(kind, (kind(*row) for row in found))


def _rows(run: str, parts: Sequence[Score | Answer | Total]) -> list[dict[str, Any]]:
    if not parts:
        return []
    names = [field.name for field in fields(parts[0])]
    values = attrgetter(*names)
    return [{"run": run, **dict(zip(names, values(part), strict=True))} for part in parts]


def _results(run: Run) -> list[dict[str, Any]]:
    """What follows from the scores, by version, cohort and evaluator."""
    unanswered: dict[tuple[str, str], int] = defaultdict(int)
    for answer in run.answers:
        if answer.error is not None:
            unanswered[answer.version, answer.cohort] += 1
    scores: dict[tuple[str, str, str], list[Score]] = defaultdict(list)
    for score in run.scores:
        scores[score.version, score.cohort, score.evaluator].append(score)
    # Where nobody could score anything, that is a result too.
    evaluators = {score.evaluator for score in run.scores}
    keys = scores.keys() | {(*at, name) for at in unanswered for name in evaluators}
    return [
        {
            "run": run.id,
            "version": version,
            "cohort": cohort,
            "evaluator": evaluator,
            "items": len(found := scores.get((version, cohort, evaluator), [])),
            "passed": sum(score.passed for score in found),
            "unanswered": unanswered.get((version, cohort), 0),
            "mean": sum(score.value for score in found) / len(found) if found else None,
        }
        for version, cohort, evaluator in sorted(keys)
    ]
