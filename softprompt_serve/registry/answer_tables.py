"""Tables of answers that are remembered for a while, and of what was said about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Text
from sqlalchemy.orm import Mapped, mapped_column

from softprompt_serve.registry.tables import Base
from softprompt_serve.telemetry.events import Answered, TraceRef

if TYPE_CHECKING:
    from collections.abc import Mapping


class AnswerRow(Base):
    """Which version gave an answer, by the id that the client read."""

    __tablename__ = "answers"

    response_id: Mapped[str] = mapped_column(primary_key=True)
    trace_id: Mapped[str | None] = mapped_column(index=True)
    span_id: Mapped[str | None]
    sampled: Mapped[bool]
    prompt: Mapped[str]
    version: Mapped[str]
    digest: Mapped[str]
    arm: Mapped[str]
    cohort: Mapped[str]
    route: Mapped[str]
    generation: Mapped[int]
    epoch: Mapped[int]
    compared: Mapped[bool]
    at: Mapped[float] = mapped_column(index=True)

    @staticmethod
    def columns(answer: Answered) -> Mapping[str, Any]:
        """An answer as a row's values."""
        trace = answer.trace
        return {
            "response_id": answer.response_id,
            "trace_id": None if trace is None else trace.trace_id,
            "span_id": None if trace is None else trace.span_id,
            "sampled": trace is not None and trace.sampled,
            "prompt": answer.prompt,
            "version": answer.version,
            "digest": answer.digest,
            "arm": answer.arm,
            "cohort": answer.cohort,
            "route": answer.route,
            "generation": answer.generation,
            "epoch": answer.epoch,
            "compared": answer.compared,
            "at": answer.at,
        }

    def value(self) -> Answered:
        """The row as a plain value."""
        trace = None
        if self.trace_id is not None and self.span_id is not None:
            trace = TraceRef(self.trace_id, self.span_id, self.sampled)
        return Answered(
            response_id=self.response_id,
            trace=trace,
            prompt=self.prompt,
            version=self.version,
            digest=self.digest,
            arm=self.arm,
            cohort=self.cohort,
            route=self.route,
            generation=self.generation,
            epoch=self.epoch,
            compared=self.compared,
            at=self.at,
        )


class FeedbackRow(Base):
    """What a user did about an answer; one row for each answer and kind."""

    __tablename__ = "feedback"

    response_id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[float | None]
    note: Mapped[str | None] = mapped_column(Text)
    at: Mapped[float]


class EvaluationRow(Base):
    """What an evaluator found about an answer; one row for each answer and evaluator."""

    __tablename__ = "evaluations"

    response_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    passed: Mapped[bool]
    score: Mapped[float | None]
    note: Mapped[str | None] = mapped_column(Text)
    at: Mapped[float]
