"""Where a rollout can end: one version has all of the split, the new one or the one before."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from softprompt_serve.errors import Conflict
from softprompt_serve.registry.snapshot import PRODUCTION
from softprompt_serve.registry.standing import Standing
from softprompt_serve.registry.states import Next, only_arm
from softprompt_serve.registry.tables import RolloutHistoryRow
from softprompt_serve.rollout.resolve import candidate_of
from softprompt_serve.rollout.spec import MAX_ARMS, MAX_WEIGHT, Arm, RolloutSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.orm import Session

WHOLE = 100
"""The weight of the one arm where no document says another."""


def promote(standing: Standing, selector: str | None, reason: str | None) -> Next | None:
    """Promote a version, an alias's, or the one candidate; None where that was done before.

    Raises:
        Conflict: ``no_candidate``: none was named, and there is not exactly one.
        Invalid: ``rollout_unknown_version`` or ``version_unloaded``.
    """
    version = None if selector is None else standing.names.resolve(selector, "version")
    # Asked again without a name, "the one candidate" would be the arm that was left.
    same = version is None or version == standing.only_arm == standing.production
    if same and standing.state == "promoted":
        return None
    return promoted(standing, version or standing.candidate(), reason)


def promoted(standing: Standing, version: str, reason: str | None) -> Next:
    """All of the split, and ``production``, for one version.

    A document with steps is kept where its candidate is what is promoted: putting it again then
    changes nothing. Rules stay, too; who a rule names was not part of the split.
    """
    spec, rollout = standing.spec, standing.rollout
    total = min(sum(rollout.weights.values()), MAX_WEIGHT) if spec and rollout else WHOLE
    if spec is None:
        spec = RolloutSpec(arms=(Arm(version=version, weight=total),))
    elif not spec.steps or candidate_of(spec, standing.production) != version:
        # The others stay without a share, and so resident: the way back is short.
        others = [arm for arm in spec.arms if arm.version != version][: MAX_ARMS - 1]
        arms = [arm.model_copy(update={"weight": 0}) for arm in others]
        arms.append(Arm(version=version, weight=total))
        spec = without_steps(spec).model_copy(update={"arms": tuple(arms)})
    spec = finished(spec, version)
    why = reason or "Promoted on request."
    if spec.rules:
        why += f" Rules still come first: {', '.join(rule.name for rule in spec.rules)}."
    weights = {arm.version: total if arm.version == version else 0 for arm in spec.arms}
    return Next("promoted", spec, weights, "promoted", why, version)


def promoted_by_alias(
    session: Session, prompt: str, version: str, actor: str | None, told: Mapping[str, Any]
) -> bool:
    """Whether pointing ``production`` at ``version`` was a promotion, and is done.

    ``told`` is what else the audit shall say.

    Raises:
        Conflict: ``rollout_active``.
    """
    standing = Standing.of(session, prompt)
    alone = version == standing.only_arm
    if version == standing.production and (alone or not standing.settled):
        return False  # as it is, and the arms' comparison goes on
    standing.check_settled()
    if standing.spec is None or alone:
        return False
    why = f"`{PRODUCTION}` was pointed at it."
    standing.enter(promoted(standing, version, why), actor, told)
    return True


def finished(spec: RolloutSpec, version: str) -> RolloutSpec:
    """The document when ``version`` has the split: it needs no shadow of itself any more."""
    if spec.shadow is None or spec.shadow.version != version:
        return spec
    return without_shadow(spec)


def without_shadow(spec: RolloutSpec) -> RolloutSpec:
    """The document without its shadow and the gates that are measured on it."""
    gates = tuple(gate for gate in spec.gates if not gate.of_the_shadow)
    return spec.model_copy(update={"shadow": None, "gates": gates})


def without_steps(spec: RolloutSpec) -> RolloutSpec:
    """The document without a progression; gates alone stay, for those who ask for their verdict."""
    return spec.model_copy(update={"steps": (), "gates": ()}) if spec.steps else spec


def rollback(session: Session, standing: Standing, reason: str | None) -> Next | None:
    """The last state before the present one in which one version had all of the split.

    None where that was done already: a call that is sent twice must not go back twice. Rules of
    that time whose version is gone are left out, and named in the reason: what must be quick must
    not fail for them.

    Raises:
        Conflict: ``nothing_to_roll_back``, ``rollback_target_gone`` or ``version_unloaded``.
    """
    if standing.state == "rolled_back":
        return None
    target = _settled_before(session, standing)
    spec = None if target.spec is None else RolloutSpec.model_validate_json(target.spec)
    weights: dict[str, int] = {} if spec is None else json.loads(target.weights)
    version = only_arm(weights) or target.production or ""
    names, when = standing.names, f"Generation {target.generation}"
    if version not in names.versions:
        msg = f"{when} gave all traffic to {version}, which was removed since; promote another."
        raise Conflict(msg, code="rollback_target_gone")
    if version in names.unwanted:
        msg = f"{when} gave all traffic to {version}, which is unloaded; load it first."
        raise Conflict(msg, code="version_unloaded")
    arm = Arm(version=version, weight=min(weights.get(version, WHOLE), MAX_WEIGHT))
    usable = frozenset(names.versions) - frozenset(names.unwanted)
    then = spec.rules if spec else ()
    rules = tuple(rule for rule in then if rule.versions() <= usable)
    why = f"{reason or 'Rolled back on request.'} As in generation {target.generation}."
    if lost := [rule.name for rule in then if rule not in rules]:
        why += f" Without rules whose version is gone: {', '.join(lost)}."
    base = RolloutSpec(arms=(arm,)) if spec is None else without_shadow(without_steps(spec))
    production = target.production
    if production is not None and production not in names.versions:
        production = version
    return Next(
        "rolled_back",
        base.model_copy(update={"arms": (arm,), "rules": rules}),
        {version: arm.weight},
        "rolled_back",
        why,
        production,
    )


def _settled_before(session: Session, standing: Standing) -> RolloutHistoryRow:
    """The newest settled state before this one that requests could tell from it.

    A promotion of what had all the weight already is told by nobody: to go back to before it would
    give nothing back.
    """
    history = RolloutHistoryRow
    query = (
        select(history)
        .where(history.prompt == standing.prompt, history.generation < standing.generation)
        .where(history.settled)
        .order_by(history.generation.desc())
    )
    now = (standing.only_arm, () if standing.spec is None else standing.spec.rules)
    for row in session.scalars(query):
        spec = None if row.spec is None else RolloutSpec.model_validate_json(row.spec)
        alone = row.production if spec is None else only_arm(json.loads(row.weights))
        if not standing.settled or (alone, () if spec is None else spec.rules) != now:
            return row
    msg = (
        f"{standing.prompt} was never before in a state in which one version had all of its "
        "traffic; promote the one that shall have it."
    )
    raise Conflict(msg, code="nothing_to_roll_back")
