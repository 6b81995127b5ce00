"""A run of an evaluation as JSON: what is written to disk, sent to a server and put into bundles.

The same document everywhere. Shape alone is checked here, and that a run fits itself; whether its
versions exist is the catalogue's to say.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, Self, TypeVar

from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
    model_validator,
)

from softprompt_serve.errors import BadRequest
from softprompt_serve.release import evidence
from softprompt_serve.release.evidence_checks import check_run
from softprompt_serve.release.evidence_parts import (
    PRINTABLE,
    Amount,
    AnswerIn,
    BaseIn,
    Line,
    PromptName,
    RunId,
    ScoreIn,
    Sha256,
    Shape,
    TotalIn,
)

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

MAX_VERSIONS: Final = 100
MAX_EVALUATORS: Final = 2000
"""A public benchmark counts each of its tasks as one."""

MAX_SCORES: Final = 250_000
"""They are written in one transaction, for which others wait seconds."""

_LISTED_PROBLEMS: Final = 5
_SAID_TWICE: Final = "Value error, "

Part = TypeVar("Part")


def _yielding(part: Part) -> Part:
    """Nothing but Python code: where it runs, other threads get their turn.

    pydantic would hold them up, the event loop among them, until it has seen the last score.
    """
    return part


class RunIn(Shape):
    """One evaluation of several versions on the same items, with the same sampling."""

    id: RunId = Field(description="Made by whoever ran it, so that it can be sent again.")
    prompt: PromptName
    dataset: Line
    dataset_sha256: Sha256 = Field(description="Of its canonical content.")
    digests: dict[PromptName, Sha256] = Field(
        min_length=1, max_length=MAX_VERSIONS, description="Each version's digest when asked."
    )
    evaluators: dict[Line, Line] = Field(
        max_length=MAX_EVALUATORS, description="Each evaluator's own version."
    )
    base: BaseIn = BaseIn()
    at: Amount = Field(description="Unix time of its end.")
    source: evidence.Source = "run"
    sampling: dict[Line, JsonValue] = Field(
        default={}, description="What each request was sent with."
    )
    actor: Annotated[str, StringConstraints(max_length=128, pattern=PRINTABLE)] | None = None
    scores: list[Annotated[ScoreIn, AfterValidator(_yielding)]] = Field(
        default=[], max_length=MAX_SCORES
    )
    answers: list[Annotated[AnswerIn, AfterValidator(_yielding)]] = Field(
        default=[], max_length=MAX_SCORES
    )
    totals: list[TotalIn] = Field(default=[], max_length=MAX_VERSIONS * MAX_EVALUATORS)

    @model_validator(mode="after")
    def _fits_itself(self) -> Self:
        check_run(self)
        return self

    def run(self) -> evidence.Run:
        """The run as a plain value, its parts in the order in which they stand here."""
        return evidence.Run(
            id=self.id,
            prompt=self.prompt,
            dataset=self.dataset,
            dataset_sha256=self.dataset_sha256,
            digests=MappingProxyType(self.digests),
            evaluators=MappingProxyType(self.evaluators),
            base=evidence.Base(**dict(self.base)),
            at=self.at,
            source=self.source,
            sampling=MappingProxyType(self.sampling),
            actor=self.actor,
            scores=tuple(evidence.Score(**dict(score)) for score in self.scores),
            answers=tuple(evidence.Answer(**dict(answer)) for answer in self.answers),
            totals=tuple(evidence.Total(**dict(total)) for total in self.totals),
        )

    @classmethod
    def of(cls, run: evidence.Run) -> Self:
        """The document of a run.

        Raises:
            BadRequest: ``code="invalid_run"``: it is none that a server would take.
        """
        try:
            return cls.model_validate(_data(run))
        except ValidationError as error:
            _invalid(error)


def parse_run(data: bytes | str) -> evidence.Run:
    """The run in a JSON document.

    Raises:
        BadRequest: ``code="invalid_run"``; ``param`` is the first field that is wrong.
    """
    try:
        return RunIn.model_validate_json(data).run()
    except ValidationError as error:
        _invalid(error)


def to_document(run: evidence.Run) -> bytes:
    """A run as JSON; what was not made by :func:`parse_run` is checked by :meth:`RunIn.of`."""
    return json.dumps(_data(run), ensure_ascii=False, allow_nan=False).encode()


def _data(run: evidence.Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "prompt": run.prompt,
        "dataset": run.dataset,
        "dataset_sha256": run.dataset_sha256,
        "digests": dict(run.digests),
        "evaluators": dict(run.evaluators),
        "base": asdict(run.base),
        "at": run.at,
        "source": run.source,
        "sampling": dict(run.sampling),
        "actor": run.actor,
        "scores": [asdict(score) for score in run.scores],
        "answers": [asdict(answer) for answer in run.answers],
        "totals": [asdict(total) for total in run.totals],
    }


def _invalid(error: ValidationError) -> NoReturn:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    problems = [_problem(detail) for detail in found[:_LISTED_PROBLEMS]]
    rest = f"; and {len(found) - _LISTED_PROBLEMS} more" if len(found) > _LISTED_PROBLEMS else ""
    told = "; ".join(f"{where}: {what}" if where else what for where, what in problems)
    msg = f"This is no run of an evaluation: {told}{rest}."
    raise BadRequest(msg, code="invalid_run", param=problems[0][0]) from error


def _problem(detail: ErrorDetails) -> tuple[str | None, str]:
    """Where and what; what only the whole shows says itself where."""
    what = detail["msg"].removeprefix(_SAID_TWICE)
    where = ".".join(str(part) for part in detail["loc"] if part != "[key]")
    if not where and what != detail["msg"]:
        place, colon, rest = what.partition(": ")
        if colon and " " not in place:
            return place, rest
    return where or None, what
