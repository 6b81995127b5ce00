"""Training curves: what was measured at each step, bounded so that a record stays small."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_POINTS: Final = 512
MAX_VALUES: Final = 8
NAME_CHARS: Final = 64

T = TypeVar("T")


class Point(BaseModel):
    """What was measured at one step: numbers by name, such as ``loss`` and ``eval_loss``.

    Attributes:
        step: of the optimizer, from 0.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, float] = Field(init=False)

    step: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _bounded(self) -> Point:
        values = self.__pydantic_extra__
        if len(values) > MAX_VALUES:
            msg = f"at most {MAX_VALUES} values besides the step, not {len(values)}"
            raise ValueError(msg)
        if any(not 1 <= len(name) <= NAME_CHARS for name in values):
            msg = f"a value's name has 1 to {NAME_CHARS} characters"
            raise ValueError(msg)
        return self


def _ordered(points: tuple[Point, ...]) -> tuple[Point, ...]:
    if len(points) > MAX_POINTS:
        msg = f"{len(points)} points; at most {MAX_POINTS} are kept, so leave some out evenly"
        raise ValueError(msg)
    if any(one.step >= other.step for one, other in pairwise(points)):
        msg = "steps must grow from point to point"
        raise ValueError(msg)
    return points


Curve = Annotated[tuple[Point, ...], AfterValidator(_ordered)]


def thinned(points: Sequence[T], most: int = MAX_POINTS) -> list[T]:
    """At most ``most`` (2 or more) of ``points``, evenly chosen; the first and the last stay."""
    count = len(points)
    if count <= most:
        return list(points)
    return [points[round(i * (count - 1) / (most - 1))] for i in range(most)]
