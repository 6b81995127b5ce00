"""Gates on scores: what must be won, and what must hold. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from softprompt_serve.release.evidence_pick import Asked, pick
from softprompt_serve.release.gate_words import more_items, percent, shortfall
from softprompt_serve.release.policy import BASE, BASELINE
from softprompt_serve.release.verdict import Gate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from softprompt_serve.release.case import Case
    from softprompt_serve.release.verdict import Number, Subject


class _Demand(NamedTuple):
    """A gate before it is looked at."""

    name: str
    asked: Asked
    against: Subject | None
    named: str
    margin: float
    confidence: float
    wanted: str


def win_gates(case: Case) -> Iterator[Gate]:
    """One gate for each thing to win."""
    for win in case.policy.win:
        demand = _Demand(
            f"win {win.label}",
            Asked.of(win),
            case.baseline,
            BASELINE,
            win.margin,
            win.confidence,
            f"more than {win.margin:.3g} above",
        )
        yield _gate(case, demand)


def hold_gates(case: Case) -> Iterator[Gate]:
    """One gate for each thing that must hold."""
    for hold in case.policy.hold:
        other = "" if hold.against == BASELINE else f" against {hold.against}"
        demand = _Demand(
            f"hold {hold.label}{other}",
            Asked.of(hold),
            case.subject(hold.against),
            hold.against,
            -hold.max_drop,
            hold.confidence,
            f"less than {hold.max_drop:.3g} below",
        )
        yield _gate(case, demand)


def _gate(case: Case, demand: _Demand) -> Gate:
    name, asked, against, named, margin, confidence, wanted = demand
    wanted = (
        f"{wanted} {named if against is None else against.name} with {percent(confidence)} "
        f"confidence, on at least {case.policy.min_items} items"
    )
    labels: dict[str, Number] = {"evaluator": asked.evaluator, "dataset": asked.dataset}
    if against is None:
        noun = {BASELINE: "no baseline", BASE: "no version of kind base"}
        found = f"there is {noun.get(named, f'no version {named}')} to compare with"
        return Gate.of(name, found, wanted, case.bring(named), labels)
    known = pick(case, asked, against)
    if isinstance(known, str):
        remedy = case.remedy(asked.dataset, asked.evaluator, against)
        return Gate.of(name, known, wanted, remedy, labels)
    comparison = known.compare(confidence, margin)
    hints = []
    if (few := case.policy.min_items - comparison.items) > 0:
        hints.append(more_items(few, f"in {asked.dataset}"))
    if not comparison.exceeds:
        hints.append(shortfall(comparison, case.candidate.name))
    said = known.said(comparison, case.candidate.name)
    numbers = labels | known.numbers(comparison)
    return Gate.of(name, said, wanted, " ".join(hints), numbers)
