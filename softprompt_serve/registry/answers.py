"""Which version gave which answer, for a while, and what users and evaluators said about it.

The newest answers of all replicas are kept; the oldest make room, with all that was said of them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from sqlalchemy import delete, select

from softprompt_serve.registry.answer_tables import AnswerRow, EvaluationRow, FeedbackRow
from softprompt_serve.registry.upsert import inserting, upsert
from softprompt_serve.telemetry.events import UNHAPPY

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy.orm import Session

    from softprompt_serve.registry.database import Database
    from softprompt_serve.telemetry.events import Answered, FeedbackKind

_PRUNE_EVERY: Final = 1000
"""Answers that a replica writes before it looks for those that are too old."""


@dataclass(frozen=True, slots=True)
class Reaction:
    """What a user did about an answer.

    Attributes:
        kind: what happened.
        value: a number that goes with it, or None.
        note: what a person wrote, or None.
        at: Unix time at which it was last said.
    """

    kind: FeedbackKind
    value: float | None = None
    note: str | None = None
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an evaluator found about an answer.

    Attributes:
        name: the evaluator's name.
        passed: its verdict.
        score: its score, or None.
        note: its reasons, or None.
        at: Unix time at which it was said.
    """

    name: str
    passed: bool
    score: float | None = None
    note: str | None = None
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Said:
    """What came of telling a reaction.

    Attributes:
        new: nobody had said this kind of thing about the answer before.
        first: nobody had said anything about it before.
        first_unhappy: it is the first that finds fault with the answer.
    """

    new: bool
    first: bool
    first_unhappy: bool


class Answers:
    """Every method may raise ``Unavailable`` (``code="catalogue_unavailable"``)."""

    def __init__(self, database: Database, keep: int) -> None:
        """Keep about ``keep`` answers; each replica may add a thousand before it prunes."""
        self._database = database
        self._keep = keep
        self._written = 0

    def remember(self, answers: Collection[Answered]) -> None:
        """Add answers, all or none; of two with one id the later counts."""
        rows = {answer.response_id: AnswerRow.columns(answer) for answer in answers}
        if not rows:
            return
        with self._database.writing(alone=False) as session:
            # In one order, so that replicas which write the same rows don't lock each other out.
            upsert(session, AnswerRow, [rows[key] for key in sorted(rows)])
            self._written += len(rows)
            if self._written >= min(_PRUNE_EVERY, self._keep):
                self._prune(session)
                self._written = 0

    def find(self, response_id: str) -> Answered | None:
        """The answer with that id."""
        with self._database.reading() as session:
            row = session.get(AnswerRow, response_id)
            return None if row is None else row.value()

    def of_trace(self, trace_id: str, limit: int = 2) -> list[Answered]:
        """Answers of one trace, newest first."""
        query = (
            select(AnswerRow)
            .where(AnswerRow.trace_id == trace_id)
            .order_by(AnswerRow.at.desc())
            .limit(limit)
        )
        with self._database.reading() as session:
            return [row.value() for row in session.scalars(query)]

    def react(self, response_id: str, reaction: Reaction) -> Said | None:
        """Keep a reaction; one that was told before gets the new value and note, and is not new.

        Returns:
            None if the answer is not remembered any more.
        """
        with self._database.writing(alone=False) as session:
            if not _locked(session, response_id):
                return None
            said = select(FeedbackRow.kind).where(FeedbackRow.response_id == response_id)
            before = set(session.scalars(said))
            upsert(session, FeedbackRow, [self._row(session, response_id, reaction)])
            return Said(
                new=reaction.kind not in before,
                first=not before,
                first_unhappy=reaction.kind in UNHAPPY and not before & UNHAPPY,
            )

    def judge(self, response_id: str, verdict: Verdict) -> tuple[bool, Verdict] | None:
        """Keep an evaluator's verdict, once.

        Returns:
            Whether it is new, and the verdict that counts: the first one of that evaluator. None if
            the answer is not remembered any more.
        """
        with self._database.writing(alone=False) as session:
            if not _locked(session, response_id):
                return None
            before = session.get(EvaluationRow, (response_id, verdict.name))
            if before is not None:
                return False, _verdict(before)
            row = self._row(session, response_id, verdict)
            session.execute(inserting(session, EvaluationRow), [row])
            return True, verdict

    def said(self, response_id: str) -> tuple[list[Reaction], list[Verdict]]:
        """All that was said about an answer, in the order of time."""
        reactions = select(FeedbackRow).where(FeedbackRow.response_id == response_id)
        verdicts = select(EvaluationRow).where(EvaluationRow.response_id == response_id)
        with self._database.reading() as session:
            return (
                [_reaction(r) for r in session.scalars(reactions.order_by(FeedbackRow.at))],
                [_verdict(v) for v in session.scalars(verdicts.order_by(EvaluationRow.at))],
            )

    def _row(self, session: Session, response_id: str, said: Reaction | Verdict) -> dict[str, Any]:
        """What is kept of it; it is said now, by the clock that all replicas have in common."""
        at = self._database.clock(session)
        return {"response_id": response_id, **asdict(said), "at": at}

    def _prune(self, session: Session) -> None:
        newest = select(AnswerRow.at).order_by(AnswerRow.at.desc())
        oldest_kept = session.scalar(newest.offset(self._keep - 1).limit(1))
        if oldest_kept is None:
            return
        gone = select(AnswerRow.response_id).where(AnswerRow.at < oldest_kept)
        for table in (FeedbackRow, EvaluationRow):
            session.execute(delete(table).where(table.response_id.in_(gone)))
        session.execute(delete(AnswerRow).where(AnswerRow.at < oldest_kept))


def _locked(session: Session, response_id: str) -> bool:
    """Whether the answer is there; who else says something about it waits, then sees this."""
    query = select(AnswerRow.at).where(AnswerRow.response_id == response_id)
    return session.scalar(query.with_for_update()) is not None


def _reaction(row: FeedbackRow) -> Reaction:
    return Reaction(cast("FeedbackKind", row.kind), row.value, row.note, row.at)


def _verdict(row: EvaluationRow) -> Verdict:
    return Verdict(row.name, row.passed, row.score, row.note, row.at)
