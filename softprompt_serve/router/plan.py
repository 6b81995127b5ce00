"""A rollout, compiled for the request path: first matching rule, else the split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from softprompt_serve.router.ask import DEFAULT, LONG_CONTEXT
from softprompt_serve.router.split import Split

if TYPE_CHECKING:
    from collections.abc import Mapping

    from softprompt_serve.rollout.spec import Match, RolloutSpec
    from softprompt_serve.router.ask import Ask


@dataclass(frozen=True, slots=True)
class PlannedRule:
    """A rule and the split of those who match it (of one arm, if the rule names a version)."""

    name: str
    match: Match
    split: Split


@dataclass(frozen=True, slots=True)
class Plan:
    """What a rollout means for a request.

    Attributes:
        split: the arms with their current weights.
        rules: in order; the first that matches decides.
        needs_tokens: whether a rule asks for visible tokens, so that they must be counted first.
    """

    split: Split
    rules: tuple[PlannedRule, ...]
    needs_tokens: bool

    @classmethod
    def of(cls, prompt: str, spec: RolloutSpec, weights: Mapping[str, int]) -> Plan:
        """Compile a resolved document; ``weights`` are the arms' current ones, by version."""
        rules = tuple(
            PlannedRule(
                rule.name,
                rule.match,
                Split.of(prompt, [(rule.version, 1)])
                if rule.version is not None
                else Split.of(prompt, [(arm.version, arm.weight) for arm in rule.split or ()]),
            )
            for rule in spec.rules
        )
        return cls(
            Split.of(prompt, weights.items()), rules, any(_counts(rule.match) for rule in rules)
        )

    def find(self, ask: Ask) -> tuple[str | None, Split]:
        """The rule that matches and its split, or None and the main one."""
        for rule in self.rules:
            if matches(rule.match, ask):
                return rule.name, rule.split
        return None, self.split


def _counts(match: Match) -> bool:
    # Who is not known to be `long_context` would be taken for `default`.
    cohorts = match.cohort or ()
    return match.visible_tokens is not None or LONG_CONTEXT in cohorts or DEFAULT in cohorts


def matches(match: Match, ask: Ask) -> bool:
    """Whether every condition of a rule holds for a request."""
    if match.cohort is not None and not any(map(ask.in_cohort, match.cohort)):
        return False
    if match.route is not None and ask.route not in match.route:
        return False
    if match.tools is not None and ask.tools is not match.tools:
        return False
    if match.headers is not None:
        for name, values in match.headers.items():
            if ask.headers.get(name) not in values:
                return False
    if match.visible_tokens is None:
        return True
    counted, low, high = ask.visible_tokens, match.visible_tokens.min, match.visible_tokens.max
    return counted is not None and (low or 0) <= counted and (high is None or counted <= high)
