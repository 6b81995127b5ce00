"""A run of an evaluation as JSON: what is written to disk, sent to a server and put into bundles.

The same document everywhere. Shape alone is checked here, and that a run fits itself; whether its
versions exist is the catalogue's to say.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
    model_validator,
)

from softprompt_serve.errors import BadRequest
from softprompt_serve.release import evidence

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pydantic_core import ErrorDetails

MAX_VERSIONS: Final = 100
MAX_EVALUATORS: Final = 2000
"""A public benchmark counts each of its tasks as one."""

MAX_COHORTS: Final = 100
MAX_SCORES: Final = 1_000_000
MAX_SAMPLING_CHARS: Final = 16_384
_LISTED_PROBLEMS: Final = 5
_SAID_TWICE: Final = "Value error, "

# Something that a person can read on one line: no control characters, and so no NUL, which
# PostgreSQL can't hold.
_PRINTABLE = r"^[^\x00-\x1f\x7f]+$"
Line = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=_PRINTABLE)]
PromptName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
RunId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Amount = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class BaseIn(_Shape):
    """What was served when the run was made; null is unknown."""

    name: Line | None = None
    revision: Line | None = None
    fingerprint: Line | None = None
    tokenizer_fingerprint: Line | None = None
    chat_template_sha256: Line | None = None


class ScoreIn(_Shape):
    """What one evaluator found about one version's answer to one item."""

    item: Line = Field(description="The item's id in its data set.")
    version: PromptName
    cohort: Line
    evaluator: Line
    value: float = Field(description="More is better.")
    passed: bool


class AnswerIn(_Shape):
    """What one version's answer to one item cost; null is unknown."""

    item: Line
    version: PromptName
    cohort: Line
    ttft_seconds: Amount | None = None
    e2e_seconds: Amount | None = None
    visible_tokens: Count | None = None
    virtual_tokens: Count | None = None
    output_tokens: Count | None = None
    cost_usd: Amount | None = None
    error: Line | None = Field(None, description="Its code if there was none; then no scores.")
    sha256: Sha256 | None = Field(None, description="Of its text.")


class TotalIn(_Shape):
    """A result that is known as a mean alone, as public benchmarks publish it."""

    version: PromptName
    evaluator: Line = Field(description="Task and metric, such as `mmlu_pro/exact_match`.")
    mean: Annotated[float, Field(ge=0.0, le=1.0)]
    stderr: Amount | None = None
    items: Count


class RunIn(_Shape):
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
    actor: Annotated[str, StringConstraints(max_length=128, pattern=_PRINTABLE)] | None = None
    scores: list[ScoreIn] = Field(default=[], max_length=MAX_SCORES)
    answers: list[AnswerIn] = Field(default=[], max_length=MAX_SCORES)
    totals: list[TotalIn] = Field(default=[], max_length=MAX_VERSIONS * MAX_EVALUATORS)

    @model_validator(mode="after")
    def _fits_itself(self) -> Self:
        if not (self.scores or self.answers or self.totals):
            msg = "it has no scores, answers or totals"
            raise ValueError(msg)
        _check_sampling(self)
        _check_versions(self)
        _check_evaluators(self)
        cohorts = _cohorts(self)
        if len(cohorts) > MAX_COHORTS:
            msg = f"it has {len(cohorts)} cohorts; at most {MAX_COHORTS} are accepted"
            raise ValueError(msg)
        unanswered = {(a.item, a.version) for a in self.answers if a.error is not None}
        for at, score in enumerate(self.scores):
            if (score.item, score.version) in unanswered:
                msg = f"scores.{at}: {score.version} gave no answer to item {score.item}"
                raise ValueError(msg)
        _check_once("scores", ((s.item, s.version, s.evaluator) for s in self.scores))
        _check_once("answers", ((a.item, a.version) for a in self.answers))
        _check_once("totals", ((t.version, t.evaluator) for t in self.totals))
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


def _check_sampling(run: RunIn) -> None:
    try:
        size = len(json.dumps(run.sampling, allow_nan=False))
    except ValueError as error:  # JsonValue lets NaN and the like through
        msg = f"sampling: {error}"
        raise ValueError(msg) from error
    if size > MAX_SAMPLING_CHARS:
        msg = f"sampling: it has {size} characters as JSON; at most {MAX_SAMPLING_CHARS} are taken"
        raise ValueError(msg)


def _check_versions(run: RunIn) -> None:
    found: dict[str, Sequence[ScoreIn | AnswerIn | TotalIn]] = {
        "scores": run.scores,
        "answers": run.answers,
        "totals": run.totals,
    }
    for name, parts in found.items():
        for at, part in enumerate(parts):
            if part.version not in run.digests:
                msg = f"{name}.{at}.version: {part.version} has no digest in `digests`"
                raise ValueError(msg)


def _check_evaluators(run: RunIn) -> None:
    found: dict[str, Sequence[ScoreIn | TotalIn]] = {"scores": run.scores, "totals": run.totals}
    for name, parts in found.items():
        for at, part in enumerate(parts):
            if part.evaluator not in run.evaluators:
                msg = f"{name}.{at}.evaluator: {part.evaluator} has no version in `evaluators`"
                raise ValueError(msg)


def _cohorts(run: RunIn) -> set[str]:
    """The cohorts; an item has one, or a comparison by cohort would pair what is not a pair."""
    of: dict[str, str] = {}
    found: dict[str, Sequence[ScoreIn | AnswerIn]] = {"scores": run.scores, "answers": run.answers}
    for name, parts in found.items():
        for at, part in enumerate(parts):
            if of.setdefault(part.item, part.cohort) != part.cohort:
                msg = (
                    f"{name}.{at}.cohort: item {part.item} is in the cohort {of[part.item]} "
                    f"elsewhere, not {part.cohort}"
                )
                raise ValueError(msg)
    return set(of.values())


def _check_once(name: str, keys: Iterable[tuple[str, ...]]) -> None:
    seen = set[tuple[str, ...]]()
    for at, key in enumerate(keys):
        if key in seen:
            msg = f"{name}.{at}: {' '.join(key)} stands there twice"
            raise ValueError(msg)
        seen.add(key)


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
