"""A rollout's document held against what exists: versions, aliases and declared labels. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from softprompt_serve.errors import Invalid
from softprompt_serve.registry.snapshot import PRODUCTION

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from softprompt_serve.rollout.spec import Arm, Gate, Match, RolloutSpec, Rule
    from softprompt_serve.router.ask import Labels

_ARMS_OF_STEPS = 2
_MODES = {"shadow_divergence": "score", "shadow_mismatch": "generate"}


@dataclass(frozen=True, slots=True)
class Names:
    """What a prompt's selectors can mean.

    Attributes:
        prompt: the prompt's name, for messages.
        versions: names of its versions that are not removed.
        aliases: alias → version.
        unwanted: those versions that were unloaded on purpose.
    """

    prompt: str
    versions: Collection[str]
    aliases: Mapping[str, str]
    unwanted: Collection[str] = ()

    def resolve(self, selector: str, param: str) -> str:
        """The version that a version's name or an alias stands for.

        Raises:
            Invalid: ``rollout_unknown_version`` or ``version_unloaded``.
        """
        version = self.aliases.get(selector, selector)
        if version not in self.versions:
            known = ", ".join([*self.versions, *self.aliases])
            msg = f"{param}: {self.prompt} has no version or alias {selector!r}; it has {known}."
            raise Invalid(msg, code="rollout_unknown_version", param=param)
        if version in self.unwanted:
            msg = f"{param}: {self.prompt}@{version} is unloaded; load it first."
            raise Invalid(msg, code="version_unloaded", param=param)
        return version

    def alias(self, selector: str, version: str, said: str | None) -> str | None:
        """The alias under which ``version`` was written: the selector, or what a copy says."""
        if selector in self.aliases:
            return selector
        return said if said is not None and self.aliases.get(said) == version else None


def resolve(
    spec: RolloutSpec,
    *,
    prompt: str,
    versions: Collection[str],
    aliases: Mapping[str, str],
    unwanted: Collection[str],
    labels: Labels,
    priced: bool,
) -> RolloutSpec:
    """The document with aliases replaced by versions; ``alias`` keeps what was written.

    Args:
        spec: as it was sent.
        prompt: the prompt's name.
        versions: its versions.
        aliases: its aliases, by name.
        unwanted: versions that were unloaded on purpose.
        labels: the cohorts, routes and headers that exist.
        priced: whether the settings know prices, which a gate on ``cost`` needs.

    Raises:
        Invalid: ``rollout_unknown_version``, ``version_unloaded``, ``rollout_duplicate_arm``,
            ``rollout_no_weight``, ``duplicate_rule``, ``unknown_cohort``, ``unknown_route``,
            ``header_not_allowed``, ``steps_need_baseline``, ``step_weight_too_large``,
            ``no_prices`` or ``gate_needs_shadow``; ``param`` is the field's path.
    """
    names = Names(prompt, versions, aliases, unwanted)
    arms = resolve_arms(spec.arms, names, "arms")
    rules = _rules(spec.rules, names, labels)
    shadow = spec.shadow
    if shadow is not None:
        version = names.resolve(shadow.version, "shadow.version")
        alias = names.alias(shadow.version, version, shadow.alias)
        shadow = shadow.model_copy(update={"version": version, "alias": alias})
    found = spec.model_copy(update={"arms": arms, "rules": rules, "shadow": shadow})
    _check_steps(found, names)
    for i, gate in enumerate(spec.gates):
        _check_gate(gate, f"gates.{i}", found, labels, priced=priced)
    return found


def candidate_of(spec: RolloutSpec, production: str | None) -> str | None:
    """The one arm that is not ``production``, or None if there is not exactly one."""
    others = [arm.version for arm in spec.arms if arm.version != production]
    return others[0] if len(others) == 1 else None


def without_aliases(spec: RolloutSpec) -> RolloutSpec:
    """The document without the names it was written in: two that are equal then do the same."""
    shadow = spec.shadow and spec.shadow.model_copy(update={"alias": None})
    rules = [
        rule.model_copy(update={"alias": None, "split": rule.split and _nameless(rule.split)})
        for rule in spec.rules
    ]
    update = {"arms": _nameless(spec.arms), "rules": tuple(rules), "shadow": shadow}
    return spec.model_copy(update=update)


def _nameless(arms: Iterable[Arm]) -> tuple[Arm, ...]:
    return tuple(arm.model_copy(update={"alias": None}) for arm in arms)


def resolve_arms(arms: Sequence[Arm], names: Names, where: str) -> tuple[Arm, ...]:
    """Arms with versions for aliases; ``where`` is their path in the document.

    Raises:
        Invalid: ``rollout_unknown_version``, ``version_unloaded``, ``rollout_duplicate_arm`` or
            ``rollout_no_weight``.
    """
    found: dict[str, Arm] = {}
    for i, arm in enumerate(arms):
        param = f"{where}.{i}.version"
        version = names.resolve(arm.version, param)
        if version in found:
            said = "" if arm.version == version else f", which {arm.version} stands for,"
            msg = f"{param}: {version}{said} is an arm already; give each version one weight."
            raise Invalid(msg, code="rollout_duplicate_arm", param=param)
        alias = names.alias(arm.version, version, arm.alias)
        found[version] = arm.model_copy(update={"version": version, "alias": alias})
    if not any(arm.weight for arm in arms):
        msg = f"{where}: every weight is 0; at least one arm must get traffic."
        raise Invalid(msg, code="rollout_no_weight", param=where)
    return tuple(found.values())


def _rules(rules: Sequence[Rule], names: Names, labels: Labels) -> tuple[Rule, ...]:
    found: dict[str, Rule] = {}
    for i, rule in enumerate(rules):
        where = f"rules.{i}"
        if rule.name in found:
            msg = f"{where}.name: there is a rule {rule.name!r} already."
            raise Invalid(msg, code="duplicate_rule", param=f"{where}.name")
        update: dict[str, object] = {"match": _match(rule.match, f"{where}.match", labels)}
        if rule.version is not None:
            version = names.resolve(rule.version, f"{where}.version")
            update |= {"version": version, "alias": names.alias(rule.version, version, rule.alias)}
        else:
            update |= {
                "alias": None,
                "split": resolve_arms(rule.split or (), names, f"{where}.split"),
            }
        found[rule.name] = rule.model_copy(update=update)
    return tuple(found.values())


def _match(match: Match, where: str, labels: Labels) -> Match:
    _check_cohorts(match.cohort or (), f"{where}.cohort", labels)
    for route in match.route or ():
        if route not in labels.all_routes:
            param, known = f"{where}.route", ", ".join(labels.all_routes)
            msg = f"{param}: {route!r} is no declared route (SOFTPROMPT_ROUTES); there are {known}."
            raise Invalid(msg, code="unknown_route", param=param)
    if match.headers is None:
        return match
    headers: dict[str, tuple[str, ...]] = {}
    for name, values in match.headers.items():
        param, lower = f"{where}.headers.{name}", name.lower()
        if lower not in labels.headers:
            known = ", ".join(sorted(labels.headers)) or "none"
            msg = f"{param}: rules may not look at it (SOFTPROMPT_RULE_HEADERS has {known})."
            raise Invalid(msg, code="header_not_allowed", param=param)
        if lower in headers:
            msg = f"{param}: the header stands there twice; names of headers have no case."
            raise Invalid(msg, param=param)
        headers[lower] = values
    return match.model_copy(update={"headers": headers})


def _check_cohorts(cohorts: Iterable[str], param: str, labels: Labels) -> None:
    for cohort in cohorts:
        if cohort not in labels.all_cohorts:
            known = ", ".join(labels.all_cohorts)
            msg = f"{param}: {cohort!r} is no declared cohort (SOFTPROMPT_COHORTS); known: {known}."
            raise Invalid(msg, code="unknown_cohort", param=param)


def _check_steps(spec: RolloutSpec, names: Names) -> None:
    if not spec.steps:
        return
    production = names.aliases.get(PRODUCTION)
    arms = [arm.version for arm in spec.arms]
    if len(arms) != _ARMS_OF_STEPS or production not in arms:
        msg = (
            f"steps: they need two arms, one of them `{PRODUCTION}`'s version as the baseline; "
            f"found {', '.join(arms)}, and `{PRODUCTION}` is {production or 'not set'}."
        )
        raise Invalid(msg, code="steps_need_baseline", param="arms")
    for i, step in enumerate(spec.steps):
        if step.weight > spec.total_weight:
            param = f"steps.{i}.weight"
            msg = f"{param}: {step.weight} is more than the arms' weights, {spec.total_weight}."
            raise Invalid(msg, code="step_weight_too_large", param=param)


def _check_gate(gate: Gate, where: str, spec: RolloutSpec, labels: Labels, *, priced: bool) -> None:
    param = f"{where}.metric"
    if gate.metric == "cost" and not priced:
        msg = f"{param}: nothing is known of costs; the settings have no prices."
        raise Invalid(msg, code="no_prices", param=param)
    mode = _MODES.get(gate.metric)
    if mode is not None and (spec.shadow is None or spec.shadow.mode not in {mode, "both"}):
        msg = f"{param}: {gate.metric} needs a `shadow` whose mode is {mode} or both."
        raise Invalid(msg, code="gate_needs_shadow", param=param)
    _check_cohorts(gate.cohorts or (), f"{where}.cohorts", labels)
