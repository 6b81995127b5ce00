"""Changes of a rollout as values: what shall be done, apart from whether it is done yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from softprompt_serve.registry import outcomes, transitions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.orm import Session

    from softprompt_serve.registry.standing import Standing
    from softprompt_serve.registry.states import Next
    from softprompt_serve.rollout.spec import RolloutSpec
    from softprompt_serve.router.ask import Labels
    from softprompt_serve.telemetry.events import OperationName


@dataclass(frozen=True, slots=True)
class Move:
    """One change.

    Attributes:
        name: what it is called where it is told of.
        work: from a prompt's standing and the time (Unix, the database's clock) to the next state,
            or None where nothing is to change.
    """

    name: OperationName
    work: Callable[[Session, Standing, float], Next | None]

    def __call__(self, session: Session, standing: Standing, now: float) -> Next | None:
        """Work out the next state."""
        return self.work(session, standing, now)


@dataclass(frozen=True, slots=True)
class Moves:
    """Makes them; see the functions of ``transitions`` and ``outcomes`` for what they raise.

    Attributes:
        labels: the cohorts, routes and headers that exist.
        priced: whether prices are known.
    """

    labels: Labels
    priced: bool = False

    def put(self, spec: RolloutSpec) -> Move:
        """Replace the whole document."""
        return Move(
            "rollout",
            lambda _session, standing, _now: transitions.put(
                standing, spec, self.labels, priced=self.priced
            ),
        )

    def put_weights(self, weights: Mapping[str, int]) -> Move:
        """Replace all arms."""
        return Move(
            "weights", lambda _session, standing, _now: transitions.put_weights(standing, weights)
        )

    def promote(self, version: str | None, reason: str | None = None) -> Move:
        """Give a version or alias, or the one candidate, all of the split and ``production``."""
        return Move(
            "promote", lambda _session, standing, _now: outcomes.promote(standing, version, reason)
        )

    def rollback(self, reason: str | None = None) -> Move:
        """Return to the last settled state before the present one."""
        return Move(
            "rollback", lambda session, standing, _now: outcomes.rollback(session, standing, reason)
        )

    def pause(self, reason: str | None = None) -> Move:
        """Hold the progression."""
        return Move("pause", lambda _session, standing, _now: transitions.paused(standing, reason))

    def resume(self, reason: str | None = None) -> Move:
        """Let the progression go on."""
        return Move(
            "resume", lambda _session, standing, now: transitions.resumed(standing, reason, now=now)
        )

    def advance(self, step: int, base: int, reason: str) -> Move:
        """Enter a step; ``base`` counts the candidate's answers in this epoch before it."""
        return Move(
            "advance",
            lambda _session, standing, now: transitions.advanced(
                standing, step, base, reason, now=now
            ),
        )

    def remove(self) -> Move:
        """Have no document any more."""
        return Move(
            "rollout_remove", lambda _session, standing, _now: transitions.removed(standing)
        )
