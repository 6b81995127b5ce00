"""Snapshot + what was asked for → :class:`Decision`. Pure: no I/O, no locks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from softprompt_serve.errors import NotFound, Unavailable
from softprompt_serve.registry.snapshot import NOBODY, PRODUCTION
from softprompt_serve.router.ask import DEFAULT, Ask

if TYPE_CHECKING:
    from collections.abc import Callable

    from softprompt_serve.registry.snapshot import Prompt, Snapshot, Version
    from softprompt_serve.router.plan import Plan

Reason = Literal["production", "pinned", "alias", "rule", "split", "fallback"]
Absent = Literal["fallback", "unavailable"]

ANYONE = Ask()


@dataclass(frozen=True, slots=True)
class Decision:
    """Which version answers a request, and why.

    Attributes:
        version: what answers.
        reason: ``pinned`` (a version was named), ``alias`` (an alias was), ``rule`` (the first
            rule that matched), ``split`` (the sticky split), ``fallback`` (the split's arm is not
            resident here, so another one took its share) or ``production`` (no rollout).
        arm: the selector that was followed: the arm's version, or the alias's name.
        generation: the rollout's generation; 0 if the prompt has none.
        rule: the name of the rule that matched, or None.
        epoch: the generation at which the comparison of the rollout's arms began.
        cohort: the request's cohort, one of a bounded set.
        route: its route, one of a bounded set.
        passed_over: the arm that should have answered but is not resident here, or None.
    """

    version: Version
    reason: Reason
    arm: str
    generation: int
    rule: str | None = None
    epoch: int = 0
    cohort: str = DEFAULT
    route: str = DEFAULT
    passed_over: str | None = None


def split_model(model: str) -> tuple[str, str | None]:
    """``support@v2`` → ``("support", "v2")``; ``support`` → ``("support", None)``."""
    name, at, selector = model.partition("@")
    return name, selector if at else None


def names_prompt(snapshot: Snapshot, model: str) -> bool:
    """Whether ``model`` names a prompt of ours, with or without a selector that exists."""
    return split_model(model)[0] in snapshot.prompts


def plan_for(snapshot: Snapshot, model: str, pinned: str | None) -> Plan | None:
    """The plan that will decide about ``model``, or None if a selector or production does."""
    name, selector = split_model(model)
    prompt = snapshot.prompt(name)
    if prompt is None or selector is not None or pinned is not None or prompt.rollout is None:
        return None
    return prompt.rollout.plan


def choose(
    snapshot: Snapshot,
    model: str,
    ask: Ask = ANYONE,
    *,
    resident: Callable[[Version], bool] = lambda _: True,
    absent: Absent = "fallback",
) -> Decision:
    """Decide which version answers for ``model``: pinned, else rule, else sticky split.

    Args:
        snapshot: the catalogue.
        model: ``prompt`` or ``prompt@selector``.
        ask: what is known of the request.
        resident: whether this server's workers hold a version.
        absent: what becomes of the share of an arm that they don't hold: the other arms that
            they do hold take it, or it is refused.

    Raises:
        NotFound: ``prompt_not_found``, ``version_not_found`` or ``no_production_version``.
        Unavailable: ``version_unloaded`` if the version was unloaded on purpose,
            ``version_unverified`` if it is not known to be good on the served base model and no
            other can stand in, ``arm_not_resident`` if the arm is not resident here and ``absent``
            refuses it.
    """
    name, selector = split_model(model)
    prompt = snapshot.prompt(name)
    if prompt is None:
        msg = f"The prompt `{name}` does not exist."
        raise NotFound(msg, code="prompt_not_found", param="model")
    if ask.pinned is not None or selector is not None:
        return _pinned(prompt, model, selector, ask)
    rollout = prompt.rollout
    if rollout is None or rollout.plan is None:
        version = _found(prompt, PRODUCTION, asked=False)
        return Decision(
            version, "production", PRODUCTION, prompt.generation, cohort=ask.cohort, route=ask.route
        )
    rule, split = rollout.plan.find(ask)
    arm = split.pick(ask.key)
    if arm == NOBODY:
        raise _unverified(prompt)
    passed_over = None
    version = _found(prompt, arm, asked=True)
    if not resident(version):
        if absent == "unavailable":
            msg = f"`{version.label}` is not resident here yet."
            raise Unavailable(msg, code="arm_not_resident", param="model")
        rest = split.without(a for a, _, _ in split.arms if not _ready(prompt, a, resident))
        if rest.arms:  # else this one is loaded for the request, or refused
            passed_over, arm = arm, rest.pick(ask.key)
            version = _found(prompt, arm, asked=True)
    return Decision(
        version,
        "fallback" if passed_over else "rule" if rule else "split",
        arm,
        rollout.generation,
        rule,
        rollout.epoch,
        ask.cohort,
        ask.route,
        passed_over,
    )


def _ready(prompt: Prompt, arm: str, resident: Callable[[Version], bool]) -> bool:
    version = prompt.find(arm)
    return version is not None and version.wanted and resident(version)


def _pinned(prompt: Prompt, model: str, selector: str | None, ask: Ask) -> Decision:
    pinned = ask.pinned
    if pinned is not None and selector is not None and prompt.find(pinned) != prompt.find(selector):
        msg = f"`{model}` and x-softprompt-version `{pinned}` name different versions."
        raise NotFound(msg, code="version_not_found", param="x-softprompt-version")
    arm = selector if pinned is None else pinned
    assert arm is not None  # noqa: S101 - the caller has seen one of the two
    return Decision(
        _found(prompt, arm, asked=True),
        "alias" if arm in prompt.aliases else "pinned",
        arm,
        prompt.generation,
        cohort=ask.cohort,
        route=ask.route,
    )


def _found(prompt: Prompt, arm: str, *, asked: bool) -> Version:
    version = prompt.find(arm)
    if version is None and prompt.aliases.get(arm) == NOBODY:
        raise _unverified(prompt)
    if version is None:
        raise _unknown(prompt.name, arm, asked=asked)
    if not version.wanted:
        msg = f"`{version.label}` is unloaded; load it before sending it traffic."
        raise Unavailable(msg, code="version_unloaded", param="model", retry_after=5)
    return version


def _unverified(prompt: Prompt) -> Unavailable:
    shield = prompt.shield
    whys = (
        [] if shield is None else [f"{name} was {why}" for name, why in shield.unverified.items()]
    )
    msg = (
        f"No version of `{prompt.name}` that could answer is verified on the served base model, and "
        f"no hard version stands in ({'; '.join(whys)})."
    )
    return Unavailable(msg, code="version_unverified", param="model", retry_after=None)


def _unknown(name: str, arm: str, *, asked: bool) -> NotFound:
    if asked:
        msg = f"The prompt `{name}` has no version or alias `{arm}`."
        return NotFound(msg, code="version_not_found", param="model")
    msg = (
        f"The prompt `{name}` has no `{PRODUCTION}` alias yet; ask for `{name}@VERSION` "
        f"or set the alias."
    )
    return NotFound(msg, code="no_production_version", param="model")
