"""Why a request gets its version, step by step, for a person. Pure.

:func:`~softprompt_serve.router.choose.choose` decides; this retells its steps in words, and a
test holds that both end at the same version.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from softprompt_serve.registry.snapshot import NOBODY, PRODUCTION
from softprompt_serve.router.choose import split_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from softprompt_serve.registry.snapshot import Prompt, Snapshot, Version
    from softprompt_serve.rollout.spec import Match, TokenRange
    from softprompt_serve.router.ask import Ask
    from softprompt_serve.router.choose import Absent
    from softprompt_serve.router.plan import Plan
    from softprompt_serve.router.split import Split


@dataclass(frozen=True, slots=True)
class Trace:
    """The steps of a choice, in order, and where they end.

    Attributes:
        steps: one sentence each.
        version: the version that answers, or None if the request is refused.
    """

    steps: tuple[str, ...]
    version: str | None


def trace(
    snapshot: Snapshot,
    model: str,
    ask: Ask,
    *,
    resident: Callable[[Version], bool] = lambda _: True,
    absent: Absent = "fallback",
) -> Trace:
    """Retell how ``choose`` decides; the arguments are the same, and nothing is raised."""
    name, selector = split_model(model)
    prompt = snapshot.prompt(name)
    if prompt is None:
        return Trace((f"prompt: there is no `{name}`",), None)
    pinned = selector if ask.pinned is None else ask.pinned
    if pinned is not None:
        return _pinned(prompt, pinned, selector)
    steps = ["pinned: no", *_shielded(prompt)]
    if prompt.rollout is None or prompt.rollout.plan is None:
        steps.append("rollout: none")
        return _ending(prompt, PRODUCTION, steps)
    steps.append(f"rollout: generation {prompt.rollout.generation}, {prompt.rollout.state}")
    split = _ruled(prompt.rollout.plan, ask, steps)
    arm = split.pick(ask.key)
    shares = ", ".join(f"{arm} {weight}" for arm, _, weight in split.arms)
    alone = len(split.arms) == 1
    steps.append(f"split: {arm} has all" if alone else f"split: the key draws {arm} of {shares}")
    version = prompt.find(arm)
    if version is None or not version.wanted or resident(version):
        return _ending(prompt, arm, steps)
    steps.append(f"residency: {arm} is not resident here")
    if absent == "unavailable":
        return Trace((*steps, "refused until it is, as the settings say"), None)
    rest = split.without(a for a, _, _ in split.arms if not _ready(prompt, a, resident))
    if rest.arms:
        arm = rest.pick(ask.key)
        steps.append(f"fallback: {arm} takes its share meanwhile")
    else:
        steps.append("nor is another arm: it is loaded for the request")
    return _ending(prompt, arm, steps)


def unmet(match: Match, ask: Ask) -> str | None:
    """The first condition of a rule that does not hold for a request, in words, or None."""
    if match.cohort is not None and not any(ask.in_cohort(name) for name in match.cohort):
        return f"cohort is {ask.cohort}, not {' or '.join(match.cohort)}"
    if match.route is not None and ask.route not in match.route:
        return f"route is {ask.route}, not {' or '.join(match.route)}"
    if match.tools is not None and ask.tools is not match.tools:
        return "tools are offered" if ask.tools else "no tools are offered"
    for name, values in (match.headers or {}).items():
        if (sent := ask.headers.get(name)) not in values:
            said = "is not sent" if sent is None else f"is {sent!r}"
            return f"{name} {said}, not {' or '.join(repr(value) for value in values)}"
    return None if match.visible_tokens is None else _out_of(match.visible_tokens, ask)


def _out_of(wanted: TokenRange, ask: Ask) -> str | None:
    tokens, low, high = ask.visible_tokens, wanted.min or 0, wanted.max
    if tokens is not None and low <= tokens and (high is None or tokens <= high):
        return None
    said = f"at least {low}" if high is None else f"{low} to {high}"
    return f"visible tokens are {'not counted' if tokens is None else tokens}, not {said}"


def _ruled(plan: Plan, ask: Ask, steps: list[str]) -> Split:
    """The split that the first matching rule gives, or the main one."""
    for rule in plan.rules:
        if (why := unmet(rule.match, ask)) is None:
            steps.append(f"rule `{rule.name}`: yes")
            return rule.split
        steps.append(f"rule `{rule.name}`: no, {why}")
    return plan.split


def _shielded(prompt: Prompt) -> list[str]:
    """What the served base model keeps from answering, and who answers instead."""
    if (shield := prompt.shield) is None:
        return []
    instead = f"{shield.stand_in} stands in" if shield.stand_in else "nobody stands in"
    return [f"verification: {name} was {why}; {instead}" for name, why in shield.unverified.items()]


def _pinned(prompt: Prompt, pinned: str, selector: str | None) -> Trace:
    steps = [f"pinned: `{pinned}`", *(_shielded(prompt) if pinned in prompt.aliases else ())]
    if selector is not None and prompt.find(pinned) != prompt.find(selector):
        return Trace((*steps, f"refused: the model's name says `{selector}`"), None)
    return _ending(prompt, pinned, steps)


def _ending(prompt: Prompt, selector: str, steps: list[str]) -> Trace:
    version = prompt.find(selector)
    if NOBODY in {selector, prompt.aliases.get(selector)}:
        return Trace((*steps, "refused: nothing that is verified could answer"), None)
    if version is None:
        return Trace((*steps, f"refused: there is no version or alias `{selector}`"), None)
    if selector != version.version:
        steps.append(f"alias: `{selector}` is {version.version}")
    if not version.wanted:
        return Trace((*steps, f"refused: {version.version} is unloaded"), None)
    return Trace((*steps, f"answered by {version.version}"), version.version)


def _ready(prompt: Prompt, arm: str, resident: Callable[[Version], bool]) -> bool:
    version = prompt.find(arm)
    return version is not None and version.wanted and resident(version)
