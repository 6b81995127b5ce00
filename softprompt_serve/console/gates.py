"""What a promotion's gates say, before it is asked for: each with a drawing of what was found."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from softprompt_serve.registry.policies import tag_of
from softprompt_serve.server.promotion import failing
from softprompt_serve.server.verdicts import judged

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from softprompt_serve.release.verdict import Gate, Number
    from softprompt_serve.server.service import Service
    from softprompt_serve.server.verdicts import Judged

_WIDE: Final = 100.0
_MARGIN: Final = 0.06
"""Of the drawing's width, left free at each end."""

_HAIR: Final = 0.6
"""Width of a line, per cent."""


class Drawing(NamedTuple):
    """A figure beside its limit; places and widths in per cent of the whole.

    Attributes:
        kind: ``above``: a difference in its interval, which must be above its limit as a whole;
            ``below``: a figure from 0 on, which must not exceed it.
        start, width: of the interval or figure.
        at: the difference itself; None for a figure.
        zero, limit: where these are.
        fine: the part that is allowed, as start and width.
        said: the same in words.
    """

    kind: Literal["above", "below"]
    start: float
    width: float
    at: float | None
    zero: float
    limit: float
    fine: tuple[float, float]
    said: str


@dataclass(frozen=True, slots=True)
class Gates:
    """What would be said of a version if somebody promoted it now.

    Attributes:
        found: the judgement.
        tie: names the gates that fail; who forces a promotion forces it past these alone.
    """

    found: Judged
    tie: str

    @property
    def refused(self) -> bool:
        """Whether the promotion will be refused, unless it is forced."""
        return not self.found.verdict.passed

    @property
    def failed(self) -> Sequence[tuple[Gate, Drawing | None]]:
        """The gates that fail, drawn where their figures can be."""
        return [(gate, drawing(gate.numbers)) for gate in self.found.verdict.failed]

    @property
    def passed(self) -> Sequence[tuple[Gate, Drawing | None]]:
        """The others."""
        gates = [gate for gate in self.found.verdict.gates if gate.passed]
        return [(gate, drawing(gate.numbers)) for gate in gates]

    @property
    def drawn(self) -> bool:
        """Whether any of them is drawn."""
        return any(figure is not None for _, figure in (*self.failed, *self.passed))

    @property
    def policy(self) -> str:
        """The tag of the policy that they are of."""
        return tag_of(self.found.held.policy)


async def gates_before(service: Service, prompt: str, version: str) -> Gates:
    """What the prompt's gates say of a version now.

    Raises:
        NotFound: there is no such prompt or version by now.
        Unavailable: ``catalogue_unavailable``.
    """
    await service.feed.refresh()
    subject = service.find_version(prompt, version)
    found = await asyncio.to_thread(judged, service, service.find_prompt(prompt), subject)
    return Gates(found, failing(found))


def drawing(numbers: Mapping[str, Number]) -> Drawing | None:
    """A gate's figures as SVG can draw them; None where there are none to be drawn."""
    low, high, difference, margin = _figures(numbers, "low", "high", "difference", "margin")
    if low is not None and high is not None and difference is not None and margin is not None:
        scale = _Scale.over(low, high, margin, 0.0)
        limit, start = scale.place(margin), scale.place(low)
        return Drawing(
            "above",
            start,
            max(_HAIR, round(scale.place(high) - start, 2)),
            scale.place(difference),
            scale.place(0.0),
            limit,
            (limit, round(_WIDE - limit, 2)),
            f"{difference:+.3f}, between {low:+.3f} and {high:+.3f}; wanted above {margin:+.3f}",
        )
    value, ceiling = _figures(numbers, "value", "limit")
    if value is None or ceiling is None:
        return None
    scale = _Scale.over(0.0, value, ceiling)
    zero, limit = scale.place(0.0), scale.place(ceiling)
    return Drawing(
        "below",
        zero,
        max(_HAIR, round(scale.place(value) - zero, 2)),
        None,
        zero,
        limit,
        (zero, round(limit - zero, 2)),
        f"{value:.4g}; wanted at most {ceiling:.4g}",
    )


class _Scale(NamedTuple):
    """From figures to places."""

    low: float
    high: float

    @classmethod
    def over(cls, *figures: float) -> _Scale:
        low, high = min(figures), max(figures)
        room = _MARGIN * ((high - low) or 1.0)
        return cls(low - room, high + room)

    def place(self, figure: float) -> float:
        return round(_WIDE * (figure - self.low) / (self.high - self.low), 2)


def _figures(numbers: Mapping[str, Number], *names: str) -> list[float | None]:
    found = [numbers.get(name) for name in names]
    return [one if isinstance(one, (int, float)) and math.isfinite(one) else None for one in found]
