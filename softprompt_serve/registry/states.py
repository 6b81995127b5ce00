"""The states that a rollout goes through, and one that it is about to enter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from softprompt_serve.registry.snapshot import RolloutState
    from softprompt_serve.rollout.spec import RolloutSpec

MOVING = frozenset({"pending", "progressing", "paused"})
"""States in which the progression decides about the weights."""

ROLLED_BACK = "rolled_back"
"""The action that goes back to where a prompt was."""

ENDING = frozenset({"promoted", ROLLED_BACK})
"""Actions that give one version everything."""


@dataclass(frozen=True, slots=True)
class Next:
    """A state to enter; what it leaves out is as it is before a first step.

    Attributes:
        action: what the audit and the history call it, such as ``promoted``.
        spec: the document, or None to have none.
        weights: the arms' weights by version.
        state: where the progression stands then.
        reason: why, for a person.
        production: the version that ``production`` stands for then, or None for no such alias.
        restart: whether the comparison of the arms begins anew.
        step: index of the step.
        step_since: Unix time at which it began.
        step_base: answers of the candidate before it began.
    """

    action: str
    spec: RolloutSpec | None
    weights: Mapping[str, int]
    state: RolloutState
    reason: str
    production: str | None
    restart: bool = False
    step: int | None = None
    step_since: float | None = None
    step_base: int = 0

    def needs(self) -> frozenset[str]:
        """Versions that must be able to answer before this state is entered."""
        if self.spec is None:
            return frozenset()
        alone = only_arm(self.weights) if self.action in ENDING else None
        return self.spec.versions() if alone is None else frozenset({alone})


def only_arm(weights: Mapping[str, int]) -> str | None:
    """The one version with a weight, or None."""
    positive = [version for version, weight in weights.items() if weight]
    return positive[0] if len(positive) == 1 else None
