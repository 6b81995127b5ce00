"""What becomes of a rollout next: pure, from its state and what all replicas counted.

pending → step 0 … last step → promoted; a broken gate → rolled back, or paused; no traffic →
paused until there is some. Nothing is promoted for want of evidence: each step asks for answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from softprompt_serve.rollout.findings import Arms, explain, numbers
from softprompt_serve.rollout.gates import OVERALL, Trial, look, slots
from softprompt_serve.rollout.resolve import candidate_of
from softprompt_serve.rollout.tally import Counts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from softprompt_serve.registry.replicas import Replica
    from softprompt_serve.registry.snapshot import Rollout
    from softprompt_serve.registry.tallies import Tally
    from softprompt_serve.rollout.gates import Arm, Look
    from softprompt_serve.rollout.spec import RolloutSpec

Action = Literal["hold", "advance", "promote", "rollback", "pause", "resume"]

ACTOR: Final = "rollout-controller"
"""Who changed it, in the audit, when nobody did."""

NO_TRAFFIC: Final = "no_traffic"
"""How the reason of a pause begins that ends by itself, when the candidate answers again."""

LIVE: Final = frozenset({"pending", "progressing", "paused", "static"})
"""States in which arms are compared; without steps for those who ask, not to act on it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done, and why.

    Attributes:
        action: ``hold`` is nothing.
        reason: for a person.
        numbers: what it rests on; see :func:`softprompt_serve.rollout.findings.numbers`.
        memory: JSON data that the next look at the same epoch needs.
        step: the step to advance to, with ``advance``.
        answers: of the candidate in this epoch, all cohorts together.
    """

    action: Action
    reason: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    memory: Mapping[str, Any] = field(default_factory=dict)
    step: int = 0
    answers: int = 0


class Clock(NamedTuple):
    """When something was last seen to happen, by the database's clock, in Unix time.

    Attributes:
        now: the present.
        answered: when the candidate's last answer was noticed, or None if that isn't known.
    """

    now: float
    answered: float | None


def judge(
    rollout: Rollout,
    production: str,
    tallies: list[Tally],
    shadow: list[Tally],
    *,
    now: float,
    cohorts: tuple[str, ...],
    applied: bool,
    memory: Mapping[str, Any] | None = None,
) -> Verdict:
    """Look at a rollout once.

    Args:
        rollout: its present state.
        production: the baseline's version.
        tallies: of kind ``requests`` of this epoch, of all replicas.
        shadow: likewise of kind ``shadow``.
        now: Unix time by the database's clock.
        cohorts: all labels that exist.
        applied: whether all live replicas serve this generation; see :func:`applied`.
        memory: of the last verdict on this epoch, or None if there is none.
    """
    spec = rollout.spec
    candidate = None if spec is None else candidate_of(spec, production)
    if spec is None or candidate is None or rollout.state not in LIVE:
        return Verdict("hold", "There is not one candidate to compare with one baseline.")
    shadowed = candidate if spec.shadow is None else spec.shadow.version
    arms = Arms(
        candidate,
        production,
        arm_of(tallies, candidate),
        arm_of(tallies, production),
        arm_of(shadow, shadowed),
    )
    known = memory or {}
    looks = look_at(spec, arms, cohorts, known.get("trials", {}))
    answered = known.get("answered") if arms.answers == known.get("answers", 0) else now
    clock = Clock(now, answered)
    action, reason = decide(rollout, arms, looks, clock, applied=applied)
    return Verdict(
        action,
        reason,
        numbers(arms, looks),
        {
            "answers": arms.answers,
            "answered": answered,
            "trials": _to_json(looks),
        },
        step=0 if rollout.step is None else rollout.step + 1,
        answers=arms.answers,
    )


def decide(
    rollout: Rollout, arms: Arms, looks: Iterable[Look], clock: Clock, *, applied: bool
) -> tuple[Action, str]:
    """What is to be done and why, once the gates were looked at."""
    spec, state = rollout.spec, rollout.state
    why = explain(arms, [found for found in looks if found.broken])
    if spec is None or not _acted_on(rollout):
        return "hold", f"It is {state}. {why}".rstrip()
    if why:
        stays = state == "paused" and spec.on_failure == "pause"
        return ("hold", f"It stays paused. {why}") if stays else (spec.on_failure, why)
    if state == "pending":
        return _begun(spec, arms.candidate_version, applied=applied)
    if state == "paused":
        return _resumed(arms.candidate_version, clock, spec.pause_after_idle_seconds)
    return _stepped(rollout, spec, arms, clock)


def _acted_on(rollout: Rollout) -> bool:
    """Whether it moves by itself: a pause only ends by itself if the controller saw no traffic."""
    if rollout.state == "paused":
        return rollout.updated_by == ACTOR and rollout.reason.startswith(NO_TRAFFIC)
    return rollout.state in {"pending", "progressing"}


def _begun(spec: RolloutSpec, candidate: str, *, applied: bool) -> tuple[Action, str]:
    if applied:
        return "advance", _entering(spec, 0, candidate)
    return "hold", "Not every live replica serves this generation with all versions resident."


def _resumed(candidate: str, clock: Clock, limit: float) -> tuple[Action, str]:
    if clock.answered is not None and clock.now - clock.answered < limit:
        return "resume", f"{candidate} answers again."
    return "hold", f"{candidate} still gets no traffic."


def _stepped(rollout: Rollout, spec: RolloutSpec, arms: Arms, clock: Clock) -> tuple[Action, str]:
    """Pause, wait, or go on, while no gate is broken."""
    index, since = rollout.step or 0, rollout.step_since or 0.0
    step, candidate = spec.steps[index], arms.candidate_version
    gathered, passed = arms.answers - rollout.step_base, clock.now - since
    idle = clock.now - max(since, clock.answered or 0.0)
    if idle >= spec.pause_after_idle_seconds:
        return "pause", f"{NO_TRAFFIC}: {candidate} has not answered anyone for {idle:.0f} s."
    wanted = []
    if gathered < step.min_requests:
        wanted.append(f"{step.min_requests - gathered} more answers")
    if passed < step.min_duration_seconds:
        wanted.append(f"{math.ceil(step.min_duration_seconds - passed)} more seconds")
    here = f"Step {index + 1} of {len(spec.steps)}"
    if wanted:
        return "hold", f"{here} needs {' and '.join(wanted)}."
    done = f"{here} is over: {gathered} answers in {passed:.0f} s, and no gate is broken."
    if index + 1 == len(spec.steps):
        return "promote", done
    return "advance", f"{done} {_entering(spec, index + 1, candidate)}"


def _entering(spec: RolloutSpec, index: int, candidate: str) -> str:
    share = f"{spec.steps[index].weight} of {spec.total_weight}"
    return f"{candidate} gets {share}: step {index + 1} of {len(spec.steps)}."


def look_at(
    spec: RolloutSpec, arms: Arms, cohorts: tuple[str, ...], trials: Mapping[str, Any]
) -> list[Look]:
    """Look at every gate everywhere; ``trials`` are those of the look before, as JSON, by slot."""
    found = []
    for slot in slots(spec, cohorts):
        before = trials.get(slot.key)
        mine = arms.shadow if slot.gate.of_the_shadow else arms.candidate
        trial = None if before is None else Trial.from_json(before)
        found.append(look(slot, mine, arms.baseline, trial))
    return found


def _to_json(looks: Iterable[Look]) -> dict[str, Any]:
    begun = ((found.slot.key, found.trial) for found in looks if found.trial is not None)
    return {key: trial.to_json() for key, trial in begun if trial.seen.baseline}


def arm_of(tallies: Iterable[Tally], version: str) -> Arm:
    """What all replicas counted of one version, by cohort and overall."""
    arm: Arm = {}
    for tally in tallies:
        if tally.version == version:
            arm.setdefault(tally.cohort, Counts()).merge_json(tally.data)
    everyone = Counts()
    for counts in arm.values():
        everyone.merge(counts)
    return {**arm, OVERALL: everyone}


def applied(prompt: str, rollout: Rollout | None, replicas: Collection[Replica]) -> bool:
    """Whether there is a live replica, and each follows."""
    return bool(replicas) and all(follows(replica, prompt, rollout) for replica in replicas)


def follows(replica: Replica, prompt: str, rollout: Rollout | None) -> bool:
    """Whether a replica serves this generation and holds every version that it names.

    One that has reported nothing of a prompt follows where there never was a rollout.
    """
    generation = 0 if rollout is None else rollout.generation
    spec = None if rollout is None else rollout.spec
    named = frozenset() if spec is None else spec.versions()
    serving = replica.rollouts.get(prompt)
    if serving is None:
        return not generation
    return serving.generation == generation and named <= set(serving.resident)
