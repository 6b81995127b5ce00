"""Shapes of the feedback routes, as they appear in OpenAPI."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from softprompt_serve.server.schemas import Shape, rfc3339
from softprompt_serve.telemetry.events import FeedbackKind  # noqa: TC001 - pydantic reads it

if TYPE_CHECKING:
    from softprompt_serve.registry.answers import Reaction, Verdict
    from softprompt_serve.telemetry.events import Answered

ResponseId = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[!-~]+$")]
# Without a NUL, which no database of ours can hold.
Note = Annotated[str, StringConstraints(max_length=2000, pattern=r"^[^\x00]*$")]
Number = Annotated[float, Field(allow_inf_nan=False)]


class About(Shape):
    """Which answer is meant."""

    response_id: ResponseId | None = Field(None, description="The answer's `id`.")
    trace_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")] | None = Field(
        None, description="Or its trace, as in the response header `x-softprompt-trace-id`."
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.response_id is None) == (self.trace_id is None):
            msg = "give either response_id or trace_id"
            raise ValueError(msg)
        return self


class FeedbackIn(About):
    """What a user did about an answer."""

    kind: FeedbackKind
    value: Number | None = Field(None, description="A number that goes with it: an amount, stars.")
    note: Note | None = Field(None, description="What a person wrote; kept, and shown to admins.")


class EvaluationIn(About):
    """What an evaluator found about an answer."""

    evaluation: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,63}$")] = (
        Field(description="The evaluator's name.", examples=["faithfulness"])
    )
    passed: bool = Field(strict=True)
    score: Number | None = None
    note: Note | None = Field(None, description="Its reasons; kept, and shown to admins.")


class AnswerOut(Shape):
    """Which version gave an answer."""

    response_id: str
    trace_id: str | None
    prompt: str
    version: str
    digest: str
    arm: str
    cohort: str
    route: str
    generation: int
    at: str = Field(description="When the request arrived; RFC 3339.")

    @classmethod
    def of(cls, answer: Answered) -> AnswerOut:
        """An answer as it is remembered."""
        return cls(
            response_id=answer.response_id,
            trace_id=None if answer.trace is None else answer.trace.trace_id,
            prompt=answer.prompt,
            version=answer.version,
            digest=answer.digest,
            arm=answer.arm,
            cohort=answer.cohort,
            route=answer.route,
            generation=answer.generation,
            at=rfc3339(answer.at),
        )


class TakenOut(Shape):
    """What was said is kept."""

    answer: AnswerOut
    recorded: bool = Field(description="Whether it was new, and so counted.")


class ReactionOut(Shape):
    """What a user did about an answer."""

    kind: FeedbackKind
    value: float | None
    note: str | None
    at: str

    @classmethod
    def of(cls, reaction: Reaction) -> ReactionOut:
        """A reaction as it is kept."""
        return cls(**asdict(reaction) | {"at": rfc3339(reaction.at)})


class VerdictOut(Shape):
    """What an evaluator found about an answer."""

    evaluation: str
    passed: bool
    score: float | None
    note: str | None
    at: str

    @classmethod
    def of(cls, verdict: Verdict) -> VerdictOut:
        """A verdict as it is kept."""
        said = asdict(verdict)
        return cls(evaluation=said.pop("name"), **said | {"at": rfc3339(verdict.at)})


class SaidOut(Shape):
    """An answer and all that was said about it."""

    answer: AnswerOut
    feedback: list[ReactionOut]
    evaluations: list[VerdictOut]
