"""Whether the candidate breaks a gate, from what was counted of both arms. Pure.

A rollout's ``alpha`` is split over its gates, and each gate's share over the places it is held in:
half for all requests together and half for the cohorts, or all of it for the cohorts it names. So
(Bonferroni) the chance that any of them is ever broken by chance is at most ``alpha``, over the
whole rollout and however often it is looked at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from softprompt_serve.rollout.histogram import bucket_of, upper_edge
from softprompt_serve.rollout.spec import RATES
from softprompt_serve.rollout.statistics import ODDS, Block, evidence_above, mixed, wagers
from softprompt_serve.rollout.tally import Counts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from softprompt_serve.rollout.histogram import Histogram
    from softprompt_serve.rollout.spec import Gate, RolloutSpec

OVERALL: Final = "*"
"""Where a cohort's name would stand: all requests. No cohort can be called that."""

_SHARES: Final = {
    "error_rate": ("failures", "requests"),
    "feedback_failures": ("feedback_failures", "requests"),
    "shadow_mismatch": ("mismatches", "pairs"),
}
_MEASURES: Final = {"shadow_divergence": "divergence"}
_FEW: Final = 20
"""Answers of the baseline from which its quantile is guessed, to know what to compare at."""

_USUAL_RATE: Final = 0.01
_WEIGHT: Final = 50
"""A first guess of the baseline's rate, and the answers it counts as. It costs speed if it is
wrong, never certainty."""

Arm = dict[str, Counts]
"""What was counted of one version by cohort, and of all requests under :data:`OVERALL`."""


class Slot(NamedTuple):
    """One gate in one place.

    Attributes:
        number: the gate's place in the document, from 0.
        gate: the gate.
        cohort: a cohort's name, or :data:`OVERALL`.
        alpha: the chance of breaking it by chance, ever.
    """

    number: int
    gate: Gate
    cohort: str
    alpha: float

    @property
    def key(self) -> str:
        """A name within the rollout."""
        return f"{self.number}/{self.cohort}"


def slots(spec: RolloutSpec, cohorts: tuple[str, ...]) -> Iterator[Slot]:
    """Every gate in every place; ``cohorts`` are all that exist."""
    for number, gate in enumerate(spec.gates):
        share = spec.alpha / len(spec.gates)
        if gate.cohorts is not None:
            for cohort in gate.cohorts:
                yield Slot(number, gate, cohort, share / len(gate.cohorts))
            continue
        yield Slot(number, gate, OVERALL, share / 2)
        for cohort in cohorts:
            yield Slot(number, gate, cohort, share / 2 / len(cohorts))


@dataclass(frozen=True, slots=True)
class Trial:
    """A comparison of the arms as far as it has come: what must be remembered between two looks.

    Attributes:
        at: for distributions, the bucket of the baseline's histogram above which an answer of the
            baseline is a hit; chosen before the answers that are compared at it.
        seen: what the evidence rests on.
        logs: log of the capital won, for each of the alternatives.
    """

    at: int | None = None
    seen: Block = field(default_factory=Block)
    logs: tuple[float, ...] = (0.0,) * len(ODDS)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        return cls(data["at"], Block(*data["seen"]), tuple(data["logs"]))

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {"at": self.at, "seen": list(self.seen), "logs": [round(x, 6) for x in self.logs]}


class Look(NamedTuple):
    """What one look at one gate in one place came to.

    Attributes:
        slot: which.
        log_evidence: natural log of the evidence against "the gate holds".
        trial: to be remembered, where arms are compared.
    """

    slot: Slot
    log_evidence: float
    trial: Trial | None

    @property
    def broken(self) -> bool:
        """Whether the gate is broken, as certainly as the slot demands."""
        return self.log_evidence >= -math.log(self.slot.alpha)


def look(slot: Slot, candidate: Arm, baseline: Arm, trial: Trial | None) -> Look:
    """Look at one gate in one place.

    Args:
        slot: which gate, and where.
        candidate: of the candidate, or of the shadow for a gate that is measured on it.
        baseline: of the baseline.
        trial: what the look before returned, for a gate that compares the arms.
    """
    gate, nothing = slot.gate, Counts()
    mine = candidate.get(slot.cohort, nothing)
    if gate.max is not None:
        return Look(slot, _over(gate, gate.max, mine), None)
    found = _follow(gate, mine, baseline.get(slot.cohort, nothing), trial)
    return Look(slot, 0.0 if found is None else mixed(found.logs), found)


def share_of(gate: Gate, counts: Counts) -> tuple[int, int]:
    """Hits and total of a gate on a rate."""
    hits, total = _SHARES[gate.metric]
    return counts.number(hits), counts.number(total)


def distribution_of(gate: Gate, counts: Counts) -> Histogram:
    """What a gate on a quantile looks at."""
    return counts.histogram(_MEASURES.get(gate.metric, gate.metric))


def _over(gate: Gate, bound: float, counts: Counts) -> float:
    """Log evidence that a rate is above ``bound``, or that too many values are."""
    if gate.metric in RATES:
        hits, total = share_of(gate, counts)
        return evidence_above(hits, total, bound)
    histogram, q = distribution_of(gate, counts), _quantile(gate)
    hits = histogram.above(bucket_of(histogram.kind, bound))
    return evidence_above(hits, histogram.count, 1.0 - q)


def _follow(gate: Gate, candidate: Counts, baseline: Counts, trial: Trial | None) -> Trial | None:
    """The comparison with what came since; None before there is anything to compare at."""
    if gate.metric in RATES:
        (hits, total), (base_hits, base_total) = share_of(gate, candidate), share_of(gate, baseline)
        now = Block(total, hits, base_total, base_hits)
        return _play(trial or Trial(), now, usual=_USUAL_RATE, increase=gate.max_increase or 0.0)
    mine, theirs = distribution_of(gate, candidate), distribution_of(gate, baseline)
    if trial is None:
        return _choose(gate, mine, theirs, Trial()) if theirs.count >= _FEW else None
    now = _beyond(gate, mine, theirs, trial.at)
    played = _play(trial, now, usual=1.0 - _quantile(gate))
    return trial if played is trial else _choose(gate, mine, theirs, played)


def _choose(gate: Gate, candidate: Histogram, baseline: Histogram, trial: Trial) -> Trial:
    """The same, to be gone on with at the baseline's quantile as it is known by now.

    With x for that, the candidate's values above ``max_ratio * x`` are compared with the
    baseline's above x: if the candidate takes at most ``max_ratio`` times as long, its share is not
    the larger one, whatever x is.
    """
    rank = math.ceil(_quantile(gate) * baseline.count)
    at = baseline.at_rank(max(1, rank))
    return Trial(at, _beyond(gate, candidate, baseline, at), trial.logs)


def _beyond(gate: Gate, candidate: Histogram, baseline: Histogram, at: int | None) -> Block:
    """How many values of both arms are too large, certainly so for the candidate's."""
    bucket = 0 if at is None else at
    limit = (gate.max_ratio or 1.0) * upper_edge(baseline.kind, bucket)
    hits = candidate.above(bucket_of(candidate.kind, limit))
    return Block(candidate.count, hits, baseline.count, baseline.above(bucket))


def _play(trial: Trial, now: Block, *, usual: float, increase: float = 0.0) -> Trial:
    """Bet on what came since; the same trial while one of the arms has no new answer."""
    if any(new < old for new, old in zip(now, trial.seen, strict=True)):
        return Trial(trial.at, now, trial.logs)  # counts were lost: go on from here
    new = Block(*(after - before for after, before in zip(now, trial.seen, strict=True)))
    if not (new.candidate and new.baseline):
        return trial
    # Feedback comes later than its answer, perhaps in another block; it is then taken as of there.
    block = Block(
        new.candidate,
        min(new.candidate_hits, new.candidate),
        new.baseline,
        min(new.baseline_hits, new.baseline),
    )
    base = (trial.seen.baseline_hits + _WEIGHT * usual) / (trial.seen.baseline + _WEIGHT)
    gains = wagers(block, base, increase)
    logs = tuple(log + gain for log, gain in zip(trial.logs, gains, strict=True))
    taken = Block(*(old + more for old, more in zip(trial.seen, block, strict=True)))
    return Trial(trial.at, taken, logs)


def _quantile(gate: Gate) -> float:
    assert gate.quantile is not None  # noqa: S101 - the document's shape has been checked
    return gate.quantile
