"""Policies: what a prompt asks of a version before it is promoted. Frozen pydantic models.

Shape alone is checked here; :mod:`softprompt_serve.release.gates` holds evidence against it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from softprompt_serve.artifact.content import LEARNED, Kind
from softprompt_serve.errors import BadRequest
from softprompt_serve.release.yaml_text import from_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_POLICY_BYTES: Final = 64 * 1024
PROTECTED: Final = ("regulated", "long_context", "multilingual", "tool_calling")
"""Cohorts that are protected wherever a policy doesn't say which."""

BASELINE: Final = "baseline"
BASE: Final = "base"

_LISTED_PROBLEMS: Final = 5

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Line = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Confidence = Annotated[float, Field(gt=0.5, lt=1.0)]
Drop = Annotated[float, Field(ge=0.0)]


class Document(BaseModel):
    """Base: frozen, unknown fields are refused, as are NaN and infinities."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Measured(Document):
    """What is measured, and on which items."""

    evaluator: Line = Field(description="As it is called in the evidence.")
    dataset: Line = Field(description="As it is called in the evidence.")
    dataset_sha256: Sha256 | None = Field(
        None, description="Evidence on this content of the data set alone counts; unset: on any."
    )
    confidence: Confidence = Field(
        0.95, description="Of the two-sided interval whose lower end decides."
    )

    @property
    def label(self) -> str:
        """``evaluator on dataset``."""
        return f"{self.evaluator} on {self.dataset}"


class Win(Measured):
    """The candidate must beat the baseline."""

    margin: float = Field(0.0, ge=0.0, description="By more than this, in the evaluator's unit.")


class Hold(Measured):
    """The candidate must not be worse than something by more than ``max_drop``."""

    max_drop: Drop = 0.02
    against: Name = Field(
        BASELINE, description="`baseline`, `base` (the plain base model), or a version."
    )


class Cohorts(Document):
    """Whom the candidate must not hurt, compared with the baseline."""

    protected: Annotated[tuple[Name, ...], Field(max_length=100)] | None = Field(
        None,
        description="Each must have evidence. Unset: those of regulated, long_context, "
        "multilingual and tool_calling that the evidence has or the server declares.",
    )
    max_drop: Drop = 0.02
    min_items: int = Field(20, ge=1, description="Of each cohort, for each evaluator.")
    confidence: Confidence = 0.95


class Ceilings(Document):
    """Base: at least one is given."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        fields = type(self).model_fields
        if all(getattr(self, name) is None for name in fields):
            msg = f"expected {' or '.join(f'`{name}`' for name in fields)}"
            raise ValueError(msg)
        return self


class Latency(Ceilings):
    """Ceilings on the 99th percentile of seconds to the last token."""

    p99_seconds: float | None = Field(None, gt=0.0)
    max_ratio: float | None = Field(None, gt=0.0, description="To the baseline's.")


class Cost(Ceilings):
    """Ceilings on the mean cost of an answer, by the server's tariff."""

    mean_usd: float | None = Field(None, gt=0.0)
    max_ratio: float | None = Field(None, gt=0.0, description="To the baseline's.")


class Watch(Document):
    """What a rerun of stored evaluations decides by, and what follows of it."""

    on_shift: Literal["report", "rollback"] = Field(
        "report",
        description="Whether production goes to the baseline where its scores have got worse.",
    )
    confidence: Confidence = Field(
        0.99, description="That nothing is called a shift where there is none, in one rerun."
    )
    datasets: Annotated[tuple[Line, ...], Field(min_length=1, max_length=50)] | None = Field(
        None, description="What is found on these alone has consequences; unset: on any."
    )
    retire_below: Drop | None = Field(
        0.02,
        description="A learned version whose lead over the baseline is certainly below this is said "
        "to be no longer needed; null: never.",
    )

    def counts(self, dataset: str) -> bool:
        """Whether what is found on a data set has consequences."""
        return self.datasets is None or dataset in self.datasets


class Policy(Document):
    """What a prompt asks of a version."""

    baseline: Name = Field(
        description="A version of kind hard, or an alias of one; it must stay loaded."
    )
    guarded: tuple[Name, ...] = Field(
        ("production",),
        min_length=1,
        max_length=100,
        description="Aliases that are moved to such a version only if it passes.",
    )
    kinds: tuple[Kind, ...] = Field(
        LEARNED, min_length=1, description="Kinds of versions of which all this is asked."
    )
    win: tuple[Win, ...] = Field(
        (),
        max_length=50,
        description="All must be won. Empty: one of all that evidence measures must be won, and "
        "none may be lost.",
    )
    hold: tuple[Hold, ...] = Field((), max_length=50, description="All must hold.")
    cohorts: Cohorts = Cohorts()
    latency: Latency | None = None
    cost: Cost | None = None
    watch: Watch = Watch()
    min_items: int = Field(50, ge=1, description="Of each comparison.")
    max_age_days: float = Field(30.0, gt=0.0)
    same_base: bool = Field(
        default=True,
        description="Evidence counts only if the base model it was made on is served.",
    )
    unverified_max_weight: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="Share of traffic that a version trained on another base model may have.",
    )

    @model_validator(mode="after")
    def _asked_once(self) -> Self:
        wins = [(win.evaluator, win.dataset) for win in self.win]
        holds = [(hold.evaluator, hold.dataset, hold.against) for hold in self.hold]
        for name, asked in (("win", wins), ("hold", holds)):
            if len(set(asked)) != len(asked):
                msg = f"{name}: the same evaluator and data set stand there twice"
                raise ValueError(msg)
        return self

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data with every field; what :func:`parse_policy` reads."""
        return self.model_dump(mode="json")


def parse_policy(given: bytes | str | Mapping[str, Any]) -> Policy:
    """A policy in YAML or JSON, or as plain data.

    Raises:
        BadRequest: ``code="invalid_policy"``; the message names each field that is wrong, and
            ``param`` the first.
    """
    data = _read(given) if isinstance(given, (bytes, str)) else dict(given)
    try:
        return Policy.model_validate(data)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        fields = [".".join(str(part) for part in e["loc"]) for e in found]
        problems = [
            f"{field or 'the whole'}: {e['msg'].removeprefix('Value error, ')}"
            for field, e in zip(fields, found, strict=True)
        ]
        rest = "; …" if len(problems) > _LISTED_PROBLEMS else ""
        msg = f"Invalid policy: {'; '.join(problems[:_LISTED_PROBLEMS])}{rest}."
        raise BadRequest(msg, code="invalid_policy", param=fields[0] or None) from error


def _read(given: bytes | str) -> dict[str, Any]:
    size = len(given if isinstance(given, bytes) else given.encode(errors="replace"))
    if size > MAX_POLICY_BYTES:
        msg = f"The policy has {size} bytes; at most {MAX_POLICY_BYTES} are accepted."
        raise BadRequest(msg, code="invalid_policy")
    try:
        text = given.decode() if isinstance(given, bytes) else given
        json_like = text.lstrip().startswith("{")
        data = json.loads(text) if json_like else from_yaml(text)
    except (ValueError, RecursionError) as error:
        msg = f"The policy can't be read as YAML or JSON: {error}."
        raise BadRequest(msg, code="invalid_policy") from error
    if not isinstance(data, dict):
        msg = "The policy is no mapping; expected fields such as `baseline: v1`."
        raise BadRequest(msg, code="invalid_policy")
    return data
