"""What a controller saw, in numbers for programs and in words for people. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from softprompt_serve.rollout.gates import OVERALL, Arm, distribution_of, share_of
from softprompt_serve.rollout.spec import RATES
from softprompt_serve.rollout.statistics import quantile_bounds, rate_bounds
from softprompt_serve.rollout.tally import Counts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from softprompt_serve.rollout.gates import Look, Slot
    from softprompt_serve.rollout.spec import Gate

_MOST: Final = 1e9
"""Evidence is not shown as more than that; it is beyond doubt long before."""

_BOUNDS: Final = ("max", "max_increase", "max_ratio")
_UNITS: Final = {"seconds": "s", "tokens": "tokens", "usd": "USD", "nats": "nats"}


class Arms(NamedTuple):
    """What is compared: versions, and what was counted of them.

    ``shadow`` holds what was counted of the shadow's answers, by cohort.
    """

    candidate_version: str
    baseline_version: str
    candidate: Arm
    baseline: Arm
    shadow: Arm

    @property
    def answers(self) -> int:
        """Of the candidate, failures among them."""
        return self.candidate[OVERALL].number("requests")


def numbers(arms: Arms, looks: Iterable[Look]) -> dict[str, Any]:
    """JSON data: ``candidate``, ``baseline``, ``answers`` of both by version, and ``gates``.

    ``gates`` has an entry for each gate in each place that has answers; see :func:`entry`.
    """
    both = ((arms.baseline_version, arms.baseline), (arms.candidate_version, arms.candidate))
    return {
        "candidate": arms.candidate_version,
        "baseline": arms.baseline_version,
        "answers": {version: arm[OVERALL].number("requests") for version, arm in both},
        "gates": [entry(arms, found) for found in looks if _has_answers(arms, found.slot)],
    }


def entry(arms: Arms, found: Look) -> dict[str, Any]:
    """What was seen of one gate in one place.

    ``gate`` (its label), ``metric``, ``quantile`` or None, ``unit`` (``share``, ``s``, ``tokens``,
    ``USD`` or ``nats``), ``bound`` (``max``, ``max_increase`` or ``max_ratio``) and ``limit``, its
    value; ``cohort``, None for all requests; ``candidate`` and ``baseline``, each with ``version``,
    ``n``, ``estimate`` or None, and ``low`` and ``high``, which hold at all times together with
    chance 1 - ``alpha`` (``high`` None: unbounded), ``baseline`` None for a gate on shadow answers;
    ``alpha``; ``evidence`` against the gate, ``needed`` to break it, and ``broken``.
    """
    slot, gate = found.slot, found.slot.gate
    bound = next(name for name in _BOUNDS if getattr(gate, name) is not None)
    theirs = None if gate.of_the_shadow else _figures(slot, arms.baseline, arms.baseline_version)
    return {
        "gate": gate.label,
        "metric": gate.metric,
        "quantile": gate.quantile,
        "unit": _unit(gate),
        "bound": bound,
        "limit": getattr(gate, bound),
        "cohort": None if slot.cohort == OVERALL else slot.cohort,
        "candidate": _figures(slot, _measured(arms, slot), arms.candidate_version),
        "baseline": theirs,
        "alpha": _rounded(slot.alpha),
        "evidence": _rounded(math.exp(min(found.log_evidence, math.log(_MOST)))),
        "needed": _rounded(1.0 / slot.alpha),
        "broken": found.broken,
    }


def explain(arms: Arms, broken: Iterable[Look]) -> str:
    """Why a rollout can't go on: each broken gate with the numbers of both arms."""
    return " ".join(_sentence(entry(arms, found)) for found in broken)


def _sentence(gate: Mapping[str, Any]) -> str:
    where = "all requests" if gate["cohort"] is None else f"cohort {gate['cohort']}"
    shown = [_shown(arm, gate["unit"]) for arm in (gate["candidate"], gate["baseline"]) if arm]
    return f"`{gate['gate']}` is broken for {where}: {' against '.join(shown)}."


def _shown(arm: Mapping[str, Any], unit: str) -> str:
    estimate, low, high = (_value(arm[name], unit) for name in ("estimate", "low", "high"))
    return f"{arm['version']} {estimate} ({low} to {high}, {arm['n']} answers)"


def _value(value: float | None, unit: str) -> str:
    if value is None:
        return "unknown"
    return f"{value * 100:.3g} %" if unit == "share" else f"{value:.3g} {unit}"


def _figures(slot: Slot, arm: Arm, version: str) -> dict[str, Any]:
    counts, gate = arm.get(slot.cohort, Counts()), slot.gate
    estimate: float | None
    if gate.metric in RATES:
        hits, n = share_of(gate, counts)
        estimate = hits / n if n else None
        low, high = rate_bounds(hits, n, slot.alpha)
    else:
        q, histogram = gate.quantile or 0.5, distribution_of(gate, counts)
        n, estimate = histogram.count, histogram.quantile(q)
        low, high = quantile_bounds(histogram, q, slot.alpha)
    return {
        "version": version,
        "n": n,
        "estimate": None if estimate is None else _rounded(estimate),
        "low": _rounded(low),
        "high": None if math.isinf(high) else _rounded(high),
    }


def _has_answers(arms: Arms, slot: Slot) -> bool:
    return slot.cohort == OVERALL or slot.cohort in _measured(arms, slot)


def _measured(arms: Arms, slot: Slot) -> Arm:
    return arms.shadow if slot.gate.of_the_shadow else arms.candidate


def _unit(gate: Gate) -> str:
    if gate.metric in RATES:
        return "share"
    return _UNITS[distribution_of(gate, Counts()).kind]


def _rounded(value: float) -> float:
    """Four significant digits: more would be noise on the wire."""
    return float(f"{value:.4g}")
