"""Where rollouts stand: generations, weights, states, and which arm is which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, get_args

from prometheus_client import Counter, Gauge

from softprompt_serve.registry.snapshot import NOBODY, PRODUCTION, RolloutState
from softprompt_serve.rollout.resolve import candidate_of
from softprompt_serve.telemetry.metrics_board import Board

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import CollectorRegistry

    from softprompt_serve.registry.snapshot import Prompt, Snapshot

Merge = Literal["livemin", "livemax", "livemostrecent"]
"""Which value of several processes is shown."""

NO_ROLLOUT: Final = "none"
STATES: Final = (NO_ROLLOUT, *get_args(RolloutState))


class RolloutMetrics:
    """Shows snapshots of the catalogue as they are read and applied.

    Args:
        registry: where the metrics are registered.
        arms: how many prompts and versions have series of their own.
        collapsed: counts what comes after them.
    """

    def __init__(self, registry: CollectorRegistry, *, arms: int, collapsed: Counter) -> None:
        def board(name: str, what: str, *labels: str, mode: Merge, each: int = 1) -> Board:
            gauge = Gauge(
                f"softprompt_rollout_{name}",
                what,
                ("prompt", *labels),
                registry=registry,
                multiprocess_mode=mode,
            )
            return Board(gauge, arms * each, collapsed)

        self._generation = board(
            "generation", "Newest generation that this server has read.", mode="livemax"
        )
        self._applied = board(
            "applied_generation", "Generation that requests here follow.", mode="livemin"
        )
        self._weight = board(
            "weight_ratio",
            "Share of the split that a version has.",
            "version",
            mode="livemostrecent",
        )
        self._unverified = board(
            "unverified",
            "Whether a version gets less traffic than it should, as it is not verified here.",
            "version",
            mode="livemostrecent",
        )
        self._arm = board(
            "arm_info",
            "What an arm is in the rollout, by the `arm` that its requests carry.",
            *("version", "arm", "role"),
            mode="livemostrecent",
        )
        self._state = board(
            "state",
            "Whether the rollout is in this state.",
            "state",
            mode="livemostrecent",
            each=len(STATES),
        )

    def read(self, snapshot: Snapshot) -> None:
        """This snapshot was read."""
        self._generation.show(_generations(snapshot))

    def applied(self, snapshot: Snapshot) -> None:
        """Requests follow this snapshot now."""
        prompts = snapshot.prompts.values()
        self._applied.show(_generations(snapshot))
        self._weight.show(
            {
                (prompt.name, version): share
                for prompt in prompts
                for version, share in _shares(prompt)
            }
        )
        self._unverified.show(
            {
                (prompt.name, version): 1.0
                for prompt in prompts
                if prompt.shield is not None
                for version in prompt.shield.unverified
            }
        )
        self._arm.show({(prompt.name, *arm): 1.0 for prompt in prompts for arm in _roles(prompt)})
        self._state.show(
            {
                (prompt.name, state): float(state == _state(prompt))
                for prompt in prompts
                for state in STATES
            }
        )


def _generations(snapshot: Snapshot) -> dict[tuple[str, ...], float]:
    return {(prompt.name,): float(prompt.generation) for prompt in snapshot.prompts.values()}


def _state(prompt: Prompt) -> str:
    rollout = prompt.rollout
    return NO_ROLLOUT if rollout is None or rollout.spec is None else rollout.state


def _production(prompt: Prompt) -> str | None:
    version = prompt.find(PRODUCTION)
    return None if version is None else version.version


def _shares(prompt: Prompt) -> Iterator[tuple[str, float]]:
    """Versions and their shares of the split, from 0 to 1; all of it is production's without one."""
    rollout = prompt.rollout
    if rollout is not None and rollout.plan is not None:
        total = sum(rollout.weights.values())
        for version, weight in rollout.weights.items():
            if version != NOBODY:
                yield version, weight / total if total else 0.0
    elif (production := _production(prompt)) is not None:
        yield production, 1.0


def _roles(prompt: Prompt) -> Iterator[tuple[str, str, str]]:
    """Version, the ``arm`` of requests that it answers by the prompt's own name, and role."""
    production, rollout = _production(prompt), prompt.rollout
    if rollout is None or rollout.spec is None:
        if production is not None:
            yield production, PRODUCTION, "baseline"
        return
    if production is not None and production in rollout.weights:
        yield production, production, "baseline"
    candidate = candidate_of(rollout.spec, production)
    if candidate is not None:
        yield candidate, candidate, "candidate"
