"""What each change of a rollout makes of a prompt's standing; None where it alters nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from softprompt_serve.errors import Conflict, Invalid
from softprompt_serve.registry.outcomes import finished, without_steps
from softprompt_serve.registry.states import MOVING, Next
from softprompt_serve.rollout.resolve import resolve, resolve_arms, without_aliases
from softprompt_serve.rollout.spec import Arm, RolloutSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from softprompt_serve.registry.snapshot import Rollout
    from softprompt_serve.registry.standing import Standing
    from softprompt_serve.router.ask import Labels


def put(standing: Standing, spec: RolloutSpec, labels: Labels, *, priced: bool) -> Next | None:
    """A whole document.

    With steps the candidate begins at weight 0. Where neither arms, steps, gates, their certainty
    nor the shadow differ from what is there, the comparison and the progression go on.

    Raises:
        Invalid: as :func:`~softprompt_serve.rollout.resolve.resolve`.
    """
    names, rollout = standing.names, standing.rollout
    found = resolve(
        spec,
        prompt=standing.prompt,
        versions=names.versions,
        aliases=names.aliases,
        unwanted=names.unwanted,
        labels=labels,
        priced=priced,
    )
    before = standing.spec
    if before is not None and standing.state == "promoted" and found.steps:
        # As it was kept when its candidate was promoted: whoever puts it again wants no more.
        ended = finished(found, standing.only_arm or "")
        found = ended if _compares_the_same(ended, before) else found
    if before is not None and without_aliases(found) == without_aliases(before):
        return None
    same = before is not None and _compares_the_same(found, before)
    if found.steps and same and rollout is not None:
        return replace(_as_it_is(standing, rollout), action="set", spec=found)
    weights = {arm.version: arm.weight for arm in found.arms}
    if found.steps:
        total = found.total_weight
        weights = {name: total if name == standing.production else 0 for name in weights}
        why = "The first step has not begun."
        return Next("set", found, weights, "pending", why, standing.production, restart=True)
    why = "As written."
    return Next("set", found, weights, "static", why, standing.production, restart=not same)


def _compares_the_same(spec: RolloutSpec, other: RolloutSpec) -> bool:
    one, two = without_aliases(spec), without_aliases(other)
    names = ("arms", "steps", "gates", "alpha", "shadow")
    return all(getattr(one, name) == getattr(two, name) for name in names)


def put_weights(standing: Standing, weights: Mapping[str, int]) -> Next | None:
    """All arms, by version or alias; rules, shadow and gates without steps stay.

    Raises:
        Conflict: ``rollout_progressing``.
        Invalid: as for a document's arms; ``param`` is the key, or None for all of them.
    """
    rollout, spec = standing.rollout, standing.spec
    if standing.state in MOVING:
        msg = (
            f"The rollout of {standing.prompt} is {standing.state}: its steps set the weights. Put "
            "a document without steps, promote or roll back first."
        )
        raise Conflict(msg, code="rollout_progressing")
    given = [Arm(version=name, weight=weight) for name, weight in weights.items()]
    params = {f"arms.{i}.version": name for i, name in enumerate(weights)}
    try:
        arms = resolve_arms(given, standing.names, "arms")
    except Invalid as error:
        message = error.message.partition(": ")[2]
        raise Invalid(message, code=error.code, param=params.get(error.param or "")) from error
    found = {arm.version: arm.weight for arm in arms}
    if rollout is None or spec is None:
        new = RolloutSpec(arms=arms)
        return Next("weights", new, found, "static", "Weights were set.", standing.production)
    if found == dict(rollout.weights):
        return None
    return Next(
        "weights",
        without_steps(spec).model_copy(update={"arms": arms}),
        found,
        "static",
        "Weights were set.",
        standing.production,
        restart=found.keys() != rollout.weights.keys(),
    )


def paused(standing: Standing, reason: str | None) -> Next | None:
    """The progression holds; weights stay.

    Raises:
        Conflict: ``rollout_has_no_steps`` or ``rollout_not_progressing``.
    """
    rollout = _progression(standing)
    if rollout.state == "paused":
        return None
    why = reason or "Paused on request."
    return replace(_as_it_is(standing, rollout), action="paused", state="paused", reason=why)


def resumed(standing: Standing, reason: str | None, *, now: float) -> Next | None:
    """The progression goes on; the step's time begins anew at ``now``, Unix time.

    Raises:
        Conflict: ``rollout_has_no_steps`` or ``rollout_not_progressing``.
    """
    rollout = _progression(standing)
    if rollout.state != "paused":
        return None
    new = replace(
        _as_it_is(standing, rollout), action="resumed", reason=reason or "Resumed on request."
    )
    if rollout.step is None:
        return replace(new, state="pending")
    return replace(new, state="progressing", step_since=now)


def advanced(standing: Standing, step: int, base: int, reason: str, *, now: float) -> Next:
    """A step begins at ``now``: the candidate gets its weight, the baseline the rest.

    Raises:
        Conflict: ``rollout_has_no_steps``, or ``rollout_not_progressing``: it is paused or ended,
            or has no such step.
    """
    rollout = _progression(standing)
    spec, chosen = standing.spec, standing.candidate()
    if spec is None or rollout.state == "paused" or not 0 <= step < len(spec.steps):
        msg = f"The rollout of {standing.prompt} is {rollout.state} and can't enter step {step}."
        raise Conflict(msg, code="rollout_not_progressing")
    weight, rest = spec.steps[step].weight, spec.total_weight - spec.steps[step].weight
    return replace(
        _as_it_is(standing, rollout),
        action="advanced",
        weights={arm.version: weight if arm.version == chosen else rest for arm in spec.arms},
        state="progressing",
        reason=reason,
        step=step,
        step_since=now,
        step_base=base,
    )


def removed(standing: Standing) -> Next | None:
    """No document any more: all traffic is production's."""
    if standing.spec is None:
        return None
    return Next("removed", None, {}, "static", "Removed.", standing.production)


def _progression(standing: Standing) -> Rollout:
    rollout = standing.rollout
    if rollout is None or rollout.spec is None or not rollout.spec.steps:
        msg = f"{standing.prompt} has no rollout with steps."
        raise Conflict(msg, code="rollout_has_no_steps")
    if rollout.state not in MOVING:
        msg = f"The rollout of {standing.prompt} is {rollout.state}; its steps are over."
        raise Conflict(msg, code="rollout_not_progressing")
    return rollout


def _as_it_is(standing: Standing, rollout: Rollout) -> Next:
    return Next(
        "",
        rollout.spec,
        rollout.weights,
        rollout.state,
        rollout.reason,
        standing.production,
        step=rollout.step,
        step_since=rollout.step_since,
        step_base=rollout.step_base,
    )
