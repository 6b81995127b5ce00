"""Gates on protected cohorts: whom the candidate must not hurt. Pure.

A cohort's items are taken together over the data sets that a policy names, or over all where it
names nothing to win, by each evaluator that scored any of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from softprompt_serve.release.evidence_pick import (
    Asked,
    Evidence,
    absences,
    compare_pairs,
    pick,
    said_of_absences,
)
from softprompt_serve.release.gate_words import (
    figures,
    more_items,
    percent,
    sentence,
    shortfall,
)
from softprompt_serve.release.pairs import Pairs, pooled
from softprompt_serve.release.policy import PROTECTED
from softprompt_serve.release.verdict import Gate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from softprompt_serve.release.case import Case
    from softprompt_serve.release.verdict import Subject


def cohort_gates(case: Case) -> Iterator[Gate]:
    """One gate for each protected cohort and evaluator; one that fails where there is no item."""
    baseline = case.baseline
    scored = {} if baseline is None else _scored(case, baseline)
    seen = {name for sets in scored.values() for pairs in sets.values() for name in pairs.cohorts()}
    protected = case.policy.cohorts.protected
    if protected is None:
        protected = tuple(name for name in PROTECTED if name in seen or name in case.declared)
    for cohort in dict.fromkeys(protected):
        if baseline is None or cohort not in seen:
            yield _unseen(case, cohort)
            continue
        for evaluator, sets in scored.items():
            theirs = {dataset: one.of(cohort) for dataset, one in sets.items()}
            if any(pairs.items for pairs in theirs.values()):
                yield _gate(case, cohort, evaluator, theirs, baseline)


def _scored(case: Case, baseline: Subject) -> dict[str, dict[str, Pairs]]:
    """Evaluator → data set → scores, of all that cohorts are looked for in."""
    policy = case.policy
    asked = {Asked.of(measured) for measured in (*policy.win, *policy.hold)}
    if not policy.win:
        pinned = {(one.evaluator, one.dataset) for one in asked}
        asked |= {Asked(*pair) for pair in case.measured() if pair not in pinned}
    found: dict[str, dict[str, Pairs]] = {}
    for one in sorted(asked, key=lambda one: one.label):
        known = pick(case, one, baseline)
        if isinstance(known, Evidence) and isinstance(known.scores, Pairs):
            found.setdefault(one.evaluator, {})[one.dataset] = known.scores
    return found


def _gate(
    case: Case, cohort: str, evaluator: str, sets: dict[str, Pairs], baseline: Subject
) -> Gate:
    asked, pairs = case.policy.cohorts, pooled(sets.values())
    found = compare_pairs(pairs, asked.confidence, -asked.max_drop)
    datasets = [dataset for dataset, some in sets.items() if some.items]
    hints = []
    if (few := asked.min_items - found.items) > 0:
        hints.append(more_items(few, f"of cohort {cohort} in {' or '.join(datasets)}"))
    if not found.exceeds:
        hints.append(shortfall(found, case.candidate.name, f" of cohort {cohort}"))
    return Gate.of(
        f"cohort {cohort} by {evaluator}",
        sentence(found, case.candidate.name, baseline.name)
        + said_of_absences(pairs, case.candidate.name, baseline.name),
        f"{_wanted(case)} below {baseline.name} with {percent(asked.confidence)} confidence, on at "
        f"least {asked.min_items} items",
        " ".join(hints),
        {
            "cohort": cohort,
            "evaluator": evaluator,
            "dataset": ", ".join(datasets),
            "against": baseline.name,
            **absences(pairs),
            **figures(found),
        },
    )


def _unseen(case: Case, cohort: str) -> Gate:
    least = case.policy.cohorts.min_items
    names = sorted({one.dataset for one in (*case.policy.win, *case.policy.hold)})
    names = names or sorted({dataset for _, dataset in case.measured()})
    where = " or ".join(names) or "the data set"
    return Gate.of(
        f"cohort {cohort}",
        f"no evidence for {cohort}",
        f"{_wanted(case)} below {case.policy.baseline}, on at least {least} items",
        more_items(least, f'with `"cohort": "{cohort}"` in {where}, scored for both versions')
        + " Or the policy's `cohorts.protected` lists only whom it means.",
        {"cohort": cohort, "items": 0},
    )


def _wanted(case: Case) -> str:
    return f"less than {case.policy.cohorts.max_drop:.3g}"
