"""Keep traffic from versions that are not known to be good on the served base model. Pure.

Their shares go to the stand-in, whatever named them: an alias, an arm or a rule. Only who pins a
version by its own name still reaches it, which is how it is evaluated again.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from softprompt_serve.registry.snapshot import NOBODY
from softprompt_serve.router.split import Split, hash64

if TYPE_CHECKING:
    from softprompt_serve.registry.snapshot import Prompt, Rollout, Shield

_FINE: Final = 10_000
"""Weights are whole numbers: so fine are parts of one."""


def shielded(prompt: Prompt, shield: Shield) -> Prompt:
    """The prompt as requests meet it; its rollout's document stays as it was written."""
    instead = shield.stand_in or NOBODY
    aliases = {
        alias: instead if version in shield.unverified else version
        for alias, version in prompt.aliases.items()
    }
    rollout = None if prompt.rollout is None else _rollout(prompt.name, prompt.rollout, shield)
    return replace(prompt, aliases=MappingProxyType(aliases), rollout=rollout, shield=shield)


def _rollout(prompt: str, rollout: Rollout, shield: Shield) -> Rollout:
    if rollout.plan is None:
        return rollout
    rules = tuple(
        replace(rule, split=_standing_in(prompt, rule.split, shield)) for rule in rollout.plan.rules
    )
    split = _standing_in(prompt, rollout.plan.split, shield)
    weights = dict.fromkeys(rollout.weights, 0)
    for name, _, weight in split.arms:
        weights[name] = weights.get(name, 0) + weight
    return replace(
        rollout,
        weights=MappingProxyType(weights),
        plan=replace(rollout.plan, split=split, rules=rules),
    )


def _standing_in(prompt: str, split: Split, shield: Shield) -> Split:
    """A split of which unverified versions have no more than ``shield.most`` together.

    An arm that must give all keeps its draw under the stand-in's name, so that nobody else's
    version changes. One that keeps a part gives the rest to an arm of its own, in finer units.
    """
    total = sum(weight for _, _, weight in split.arms)
    share = sum(weight for name, _, weight in split.arms if name in shield.unverified)
    if share <= shield.most * total:
        return split
    unit, kept = (_FINE, shield.most * total / share) if shield.most else (1, 0.0)
    instead = shield.stand_in or NOBODY
    arms: list[tuple[str, int, int]] = []
    for name, seed, weight in split.arms:
        whole = weight * unit
        keeps = int(whole * kept) if name in shield.unverified else whole
        if keeps:
            arms.append((name, seed, keeps))
        if keeps < whole:
            given = hash64(f"{prompt}@{name}, unverified") if keeps else seed
            arms.append((instead, given, whole - keeps))
    return Split(tuple(arms))
