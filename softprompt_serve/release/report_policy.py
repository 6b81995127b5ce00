"""A policy as a report reads it: limits for its plots, and the whole in words. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from softprompt_serve.release.policy import BASE, BASELINE, PROTECTED
from softprompt_serve.release.report_data import Fact
from softprompt_serve.release.report_results import Asked, Contest
from softprompt_serve.release.report_words import plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from softprompt_serve.release.policy import Policy

    Data = Mapping[str, Any]

_LISTS: Final = frozenset({"win", "hold"})
_HUNDRED: Final = 100


def contest_of(
    version: Data, versions: Sequence[Data], policy: Policy | None, judged: Data | None
) -> Contest:
    """Who is compared; the verdict says what the policy's baseline stood for, if it was an alias."""
    named = None if policy is None else policy.baseline
    stood_for = (judged or {}).get("baseline")
    if stood_for is not None:
        named = stood_for["version"]
    for other in versions:
        if named in other["aliases"]:
            named = other["version"]
    cohorts = None if policy is None else policy.cohorts
    return Contest(
        candidate=version["version"],
        baseline=named,
        kinds={other["version"]: other["kind"] for other in versions},
        digests={other["version"]: other["digest"] for other in versions},
        protected=frozenset(() if cohorts is None else cohorts.protected or PROTECTED),
        max_drop=None if cohorts is None else cohorts.max_drop,
    )


def asked_by(policy: Policy | None, contest: Contest) -> dict[tuple[str, str], Asked]:
    """What is asked on each data set by each evaluator; a win counts before what is to be held."""
    asked: dict[tuple[str, str], Asked] = {}
    if policy is None:
        return asked
    for hold in policy.hold:
        against = _against(hold.against, contest)
        said = f"a drop of less than {_points(hold.max_drop)} against {against}"
        limit = Asked(-hold.max_drop, hold.confidence, against, said)
        asked.setdefault((hold.dataset, hold.evaluator), limit)
    for win in policy.win:
        said = f"a win of more than {_points(win.margin)} against {contest.baseline}"
        limit = Asked(win.margin, win.confidence, contest.baseline, said)
        asked[win.dataset, win.evaluator] = limit
    return asked


def policy_facts(policy: Data | None) -> tuple[Fact, ...]:
    """A line for each demand; nothing without a policy."""
    facts: list[Fact] = []
    for name, value in (policy or {}).items():
        if name in _LISTS:
            facts += [Fact(f"{name} {n}", _given(it)) for n, it in enumerate(value, 1)]
        elif value is not None:
            facts.append(Fact(name.replace("_", " "), _given(value)))
    return tuple(facts)


def _given(value: Any) -> str:
    if isinstance(value, dict):
        value = {name: part for name, part in value.items() if part is not None}
    return plain(value) or "none"


def _against(named: str, contest: Contest) -> str:
    if named == BASELINE:
        return contest.baseline or named
    if named == BASE:
        bases = (name for name, kind in contest.kinds.items() if kind == BASE)
        return next(bases, named)
    return named


def _points(value: float) -> str:
    return f"{value * _HUNDRED:g} points"
