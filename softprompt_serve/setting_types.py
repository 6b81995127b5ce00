"""Types of settings that need more than a bound: lists by commas, prices, limits that can be off."""

from __future__ import annotations

from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
)
from pydantic_settings import NoDecode

RESERVED_LABELS = frozenset({"default", "other", "long_context", "tool_calling"})


def _listed(value: object) -> object:
    """``"a, b"`` → ``("a", "b")``; what is a sequence already stays."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) != len(names):
        msg = "a name stands there twice"
        raise ValueError(msg)
    if taken := RESERVED_LABELS.intersection(names):
        msg = f"{', '.join(sorted(taken))}: reserved, the server gives these itself"
        raise ValueError(msg)
    return names


def _or_none(value: object) -> object:
    return None if value == "none" else value


Names = Annotated[
    tuple[Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")], ...],
    NoDecode,
    BeforeValidator(_listed),
    AfterValidator(_distinct),
    Field(max_length=100),
]
"""A bounded list of label values."""

Price = Annotated[float | None, Field(ge=0.0, allow_inf_nan=False)]
"""USD per million tokens; None where there is no tariff, which is not the same as 0."""


class Tariff(BaseModel):
    """What one base model's tokens cost; see :class:`~softprompt_serve.rollout.cost.Prices`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: Price = None
    cached_input: Price = None
    virtual: Price = None
    output: Price = None


Tariffs = Annotated[dict[str, Tariff], Field(max_length=1000)]
"""Tariffs by the base model's served name."""

Headers = Annotated[
    tuple[Annotated[str, StringConstraints(to_lower=True, pattern=r"^[a-zA-Z0-9-]{1,100}$")], ...],
    NoDecode,
    BeforeValidator(_listed),
    Field(max_length=100),
]
"""Names of HTTP headers, lower-case."""

Limit = Annotated[int | None, Field(ge=0), BeforeValidator(_or_none)]
"""A whole number from 0, or ``none``: no limit."""

Rate = Annotated[int | None, Field(ge=1), BeforeValidator(_or_none)]
"""Times a minute, or ``none``: no limit."""
