"""What a change would do, worked out by the change itself, and tied to what a person has read."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from softprompt_serve.console.figures import segments, tones_of
from softprompt_serve.errors import Stale
from softprompt_serve.registry.moves import Move

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.orm import Session

    from softprompt_serve.console.figures import Segment
    from softprompt_serve.registry.rollouts import Rollouts
    from softprompt_serve.registry.standing import Standing
    from softprompt_serve.registry.states import Next

WHOLE = 100


@dataclass(frozen=True, slots=True)
class Side:
    """A prompt's traffic before or after a change.

    Attributes:
        weights: the arms' weights by version.
        production: the version that ``production`` stands for, or None.
        state: where the rollout stands; ``none`` without one.
    """

    weights: Mapping[str, int]
    production: str | None
    state: str

    def share(self, version: str) -> float:
        """A version's share of the split, 0 to 1."""
        total = sum(self.weights.values())
        return self.weights.get(version, 0) / total if total else 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """A change that has not been made.

    Attributes:
        generation: the rollout's, to which it is tied.
        before, after: the prompt's traffic.
        changes: False where nothing is to be done: it is so already.
        judged: the version that the prompt's gates will be asked about, or None.
    """

    generation: int
    before: Side
    after: Side
    changes: bool
    judged: str | None = None

    @property
    def tones(self) -> dict[str, int]:
        """A colour for each version, as the prompt's page has them before the change."""
        versions = [*self.before.weights, *self.after.weights]
        unique = list(dict.fromkeys(versions))
        production = self.before.production
        others = [version for version in unique if version != production]
        return tones_of(unique, production, others[0] if len(others) == 1 else None)

    @property
    def lines(self) -> list[tuple[str, float, float]]:
        """Each version with its share before and after."""
        versions = dict.fromkeys([*self.before.weights, *self.after.weights])
        return [(name, self.before.share(name), self.after.share(name)) for name in versions]

    def bar(self, side: Side) -> list[Segment]:
        """One side's split."""
        return segments(side.weights, tones=self.tones)

    @property
    def tie(self) -> str:
        """A digest of all that was shown; the form carries it, and it must still be true then."""
        sides = [[dict(s.weights), s.production, s.state] for s in (self.before, self.after)]
        text = json.dumps([self.generation, sides, self.changes], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


async def foresee(rollouts: Rollouts, prompt: str, move: Move) -> Plan:
    """What a change would do now.

    Raises:
        SoftpromptError: what the change would raise.
    """
    plans: list[Plan] = []

    def work(session: Session, standing: Standing, now: float) -> Next | None:
        new = move(session, standing, now)
        plans.append(_plan(standing, new))
        return new

    seen = await asyncio.to_thread(rollouts.foresee, prompt, Move(move.name, work), if_match=None)
    return replace(plans[-1], judged=seen.judged)


def tied(move: Move, tie: str) -> Move:
    """The same change, which does exactly what was shown or nothing.

    The generation alone is not enough: `production` can move without it.

    Raises:
        Stale: from the move: ``stale_generation``.
    """

    def work(session: Session, standing: Standing, now: float) -> Next | None:
        new = move(session, standing, now)
        if not hmac.compare_digest(_plan(standing, new).tie.encode(), tie.encode()):
            msg = (
                f"The traffic of {standing.prompt} has changed since you looked: it would not "
                "become what you confirmed. Nothing was changed; look again."
            )
            raise Stale(msg, code="stale_generation")
        return new

    return Move(move.name, work)


def _plan(standing: Standing, new: Next | None) -> Plan:
    rollout = standing.rollout
    has = rollout is not None and rollout.spec is not None
    before = Side(
        _weights(rollout.weights if rollout is not None and has else {}, standing.production),
        standing.production,
        rollout.state if rollout is not None and has else "none",
    )
    if new is None:
        return Plan(standing.generation, before, before, changes=False)
    after = Side(_weights(new.weights, new.production), new.production, new.state)
    return Plan(standing.generation, before, after, changes=True)


def _weights(weights: Mapping[str, int], production: str | None) -> dict[str, int]:
    if weights:
        return dict(weights)
    return {} if production is None else {production: WHOLE}
