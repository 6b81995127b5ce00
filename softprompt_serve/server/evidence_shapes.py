"""Shapes of the routes of evaluation runs, as they appear in OpenAPI."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from fastapi import Path, Query
from pydantic import Field, JsonValue

from softprompt_serve.release.evidence import Source  # noqa: TC001 - pydantic reads it
from softprompt_serve.release.evidence_parts import BaseIn, Line, PromptName
from softprompt_serve.server.schemas import Shape, rfc3339

if TYPE_CHECKING:
    from softprompt_serve.registry.evidence import Result
    from softprompt_serve.registry.evidence_rows import Head

RunPath = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$", description="The run's id.")]
DatasetQuery = Annotated[Line | None, Query(description="Only this data set.")]
VersionQuery = Annotated[PromptName | None, Query(description="Only what asked this version.")]
LimitQuery = Annotated[int, Query(ge=1, le=1000)]


class HeadOut(Shape):
    """A run without what it found."""

    id: str
    dataset: str
    dataset_sha256: str
    source: Source
    at: str = Field(description="Its end; RFC 3339.")
    actor: str | None
    base: BaseIn = Field(description="What was served then.")
    digests: dict[str, str] = Field(description="The versions that it asked.")
    evaluators: dict[str, str] = Field(description="Each evaluator's own version.")
    sampling: dict[str, JsonValue] = Field(description="What each request was sent with.")
    items: int = Field(description="Items of the data set that it asked.")
    scores: int
    answers: int
    totals: int

    @classmethod
    def of(cls, head: Head) -> HeadOut:
        """A run as it is kept."""
        run = head.run
        return cls(
            id=run.id,
            dataset=run.dataset,
            dataset_sha256=run.dataset_sha256,
            source=run.source,
            at=rfc3339(run.at),
            actor=run.actor,
            base=BaseIn(**asdict(run.base)),
            digests=dict(run.digests),
            evaluators=dict(run.evaluators),
            sampling=dict(run.sampling),
            items=head.items,
            scores=head.scores,
            answers=head.answers,
            totals=head.totals,
        )


class RunsOut(Shape):
    """Runs, newest first."""

    data: list[HeadOut]


class AddedOut(Shape):
    """A run that is kept."""

    run: HeadOut
    recorded: bool = Field(description="Whether it was new.")


class ResultOut(Shape):
    """What the newest run of its kind found about a version in a cohort."""

    version: str
    cohort: str | None = Field(description="null: all items, of a result known as a mean alone.")
    dataset: str
    dataset_sha256: str
    evaluator: str
    items: int = Field(description="How many were scored.")
    passed: int | None
    failed: int | None
    fail_rate: float | None = Field(description="failed / items; null without verdicts.")
    unanswered: int = Field(description="Items without an answer, which nobody could score.")
    mean: float | None = Field(description="Of the scores.")
    stderr: float | None = Field(description="The mean's standard error, where it was told.")
    run: str
    at: str = Field(description="The run's end; RFC 3339.")

    @classmethod
    def of(cls, result: Result) -> ResultOut:
        """A result as it is kept."""
        return cls(
            version=result.version,
            cohort=result.cohort,
            dataset=result.dataset,
            dataset_sha256=result.dataset_sha256,
            evaluator=result.evaluator,
            items=result.items,
            passed=result.passed,
            failed=result.failed,
            fail_rate=result.fail_rate,
            unanswered=result.unanswered,
            mean=result.mean,
            stderr=result.stderr,
            run=result.run,
            at=rfc3339(result.at),
        )


class ResultsOut(Shape):
    """What is known of each version, by cohort, data set and evaluator."""

    prompt: str
    data: list[ResultOut]
