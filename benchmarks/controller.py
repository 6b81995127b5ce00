"""How often does the controller roll back for nothing, and how soon for something?

No engine, no network, no database: traffic of two arms is drawn (numpy), counted in the controller's
own histograms and judged by its own code after every few answers of the candidate, step by step,
until it promotes or rolls back. Cohorts, gates and steps are those of a usual rollout; arms that are
alike are also judged by gates without any margin, and under a load that rises and falls for both,
which is where false alarms come from. For comparison, some rollouts are also judged by what is
simpler: break a gate when the two arms' confidence sequences no longer meet.

    python benchmarks/controller.py                       # 1,000 rollouts of equal arms, minutes
    python benchmarks/controller.py --alike 50 --worse 20 # a minute
    python benchmarks/controller.py --results FILE.md     # and keep the tables
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rich.progress import track

from softprompt_serve.registry.snapshot import Rollout
from softprompt_serve.rollout.findings import Arms
from softprompt_serve.rollout.gates import OVERALL, Look, distribution_of, share_of, slots
from softprompt_serve.rollout.histogram import bucket_of, upper_edge
from softprompt_serve.rollout.progress import Clock, decide, look_at
from softprompt_serve.rollout.spec import RATES, RolloutSpec
from softprompt_serve.rollout.statistics import quantile_bounds, rate_bounds
from softprompt_serve.rollout.tally import MEASURED, Counts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PER_SECOND = 20.0
"""Requests; only the shortest duration of a step and the load's rhythm depend on it."""

COHORTS = MappingProxyType(
    {
        "default": 0.6,
        "long_context": 0.15,
        "tool_calling": 0.1,
        "multilingual": 0.1,
        "regulated": 0.05,
        "other": 0.0,
    }
)
ERRORS = 0.01
MEDIANS = MappingProxyType({"ttft": 0.4, "e2e": 4.0, "output_tokens": 180.0})
SPREADS = MappingProxyType({"ttft": 0.6, "e2e": 0.6, "output_tokens": 0.7})
"""Standard deviations of the logarithm."""

LONG = 3.0
"""How many times as long the first token of a long context takes."""

WAVE = 1200.0
"""Seconds from one crest of the load to the next."""

OUTAGE = 0.95
"""Of the wave's height: above it a fifth of all requests fail."""

WEIGHTS = (1, 5, 20, 50, 80)


def document(*, margins: bool, answers: int = 500) -> RolloutSpec:
    """Five steps of so many answers, four gates with the margins that one would set, or none."""
    return RolloutSpec.model_validate(
        {
            "arms": [{"version": "v1", "weight": 100}, {"version": "v2", "weight": 0}],
            "steps": [
                {"weight": weight, "min_requests": answers, "min_duration_seconds": 60}
                for weight in WEIGHTS
            ],
            "gates": [
                {"metric": "error_rate", "max_increase": 0.005 if margins else 0.0},
                {"metric": "ttft", "quantile": 0.99, "max_ratio": 1.2 if margins else 1.0},
                {"metric": "e2e", "quantile": 0.5, "max_ratio": 1.1 if margins else 1.0},
                {"metric": "output_tokens", "quantile": 0.5, "max_ratio": 1.25 if margins else 1.0},
            ],
        }
    )


@dataclass(frozen=True)
class World:
    """What the candidate is like, and what happens to both arms alike.

    Attributes:
        label: in a few words.
        errors: the candidate's share of errors, where that is another than the baseline's.
        slower: by metric, how many times as much the candidate takes.
        cohort: the only one in which it is worse, or None for all.
        waves: whether load rises and falls, and both arms fail now and then.
    """

    label: str
    errors: float = ERRORS
    slower: Mapping[str, float] = field(default_factory=dict)
    cohort: str | None = None
    waves: bool = False


WORSE = (
    World("errors 1 → 3 %", errors=0.03),
    World("errors 1 → 10 %", errors=0.1),
    World("every answer fails", errors=1.0),
    World("TTFT x 1.5", slower={"ttft": 1.5}),
    World("TTFT x 3", slower={"ttft": 3.0}),
    World("tokens x 1.5", slower={"output_tokens": 1.5}),
    World("errors 1 → 10 %, `regulated` only", errors=0.1, cohort="regulated"),
    World("TTFT x 3, `long_context` only", slower={"ttft": 3.0}, cohort="long_context"),
)


class Cumulated:
    """A histogram as the controller reads it, over an array: how many values up to each bucket."""

    def __init__(self, metric: str, upto: np.ndarray) -> None:
        self.kind = MEASURED[metric]
        self.count = int(upto[-1])
        self._first = span(metric)[0]
        self._upto = upto

    @property
    def buckets(self) -> dict[int, int]:
        counts = np.diff(self._upto, prepend=0)
        return {int(i) + self._first: int(counts[i]) for i in np.flatnonzero(counts)}

    def above(self, bucket: int) -> int:
        place = bucket - self._first
        if place >= len(self._upto):
            return 0
        return self.count - (int(self._upto[place]) if place >= 0 else 0)

    def at_rank(self, rank: int) -> int:
        return int(np.searchsorted(self._upto, rank)) + self._first

    def quantile(self, q: float) -> float | None:
        return (
            None
            if not self.count
            else upper_edge(self.kind, self.at_rank(math.ceil(q * self.count)))
        )


class Drawn(Counts):
    """What one arm and cohort had come to at one look."""

    def __init__(self, totals: Totals, place: tuple[int, int, int]) -> None:
        super().__init__()
        self._totals, self._place = totals, place

    def number(self, name: str) -> int:
        return int(getattr(self._totals, name)[self._place])

    def histogram(self, name: str) -> Any:
        return Cumulated(name, self._totals.measured[name][self._place])


class Totals(NamedTuple):
    """Everything counted since the rollout began, at each look of a step.

    Attributes:
        requests: [looks, arms, cohorts and all of them]
        failures: the same
        measured: by metric, [looks, arms, cohorts and all of them, buckets], up to each bucket
    """

    requests: np.ndarray
    failures: np.ndarray
    measured: dict[str, np.ndarray]

    def arms(self, at: int) -> Arms:
        """Both arms at one look."""
        names = (*COHORTS, OVERALL)
        baseline, candidate = (
            {name: Drawn(self, (at, arm, i)) for i, name in enumerate(names)} for arm in (0, 1)
        )
        return Arms("v2", "v1", candidate, baseline, {OVERALL: Counts()})


@cache
def span(metric: str) -> tuple[int, int]:
    """The buckets that a metric's values fall into, whatever is drawn."""
    kind, middle, width = MEASURED[metric], MEDIANS[metric], math.exp(6 * SPREADS[metric])
    return bucket_of(kind, middle / width / 4), bucket_of(kind, middle * width * 16)


def draw(
    rng: np.random.Generator, world: World, share: float, requests: int, since: float
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Requests of one step: arm and cohort as one number, whether they failed, and their buckets."""
    arm = (rng.random(requests) < share).astype(int)
    names = list(COHORTS)
    cohort = rng.choice(len(names), size=requests, p=list(COHORTS.values()))
    bad = (arm == 1) & (world.cohort is None or cohort == names.index(world.cohort))
    phase = 2 * np.pi * (since + np.arange(requests) / PER_SECOND) / WAVE
    load = 1 + 0.6 * np.sin(phase) if world.waves else np.ones(requests)
    errors = np.where(bad, world.errors, ERRORS)
    if world.waves:
        # On every crest it goes wrong for everyone.
        errors = np.where(np.sin(phase) > OUTAGE, 0.2, errors * load)
    drawn = {"failed": rng.random(requests) < errors}
    for metric, middle in MEDIANS.items():
        kind = MEASURED[metric]
        value = middle * load * np.exp(SPREADS[metric] * rng.standard_normal(requests))
        value *= np.where(bad, world.slower.get(metric, 1.0), 1.0)
        if metric == "ttft":
            value *= np.where(cohort == names.index("long_context"), LONG, 1.0)
        if kind == "tokens":
            value = np.ceil(value)
        first, last = span(metric)
        bucket = np.ceil(np.log2(value / upper_edge(kind, 0)) * 32).astype(int)
        drawn[metric] = np.clip(bucket, first, last) - first
    return arm * len(names) + cohort, drawn


def counted(
    before: Totals | None, places: np.ndarray, drawn: dict[str, np.ndarray], every: int
) -> Totals:
    """The totals at each look: after ``every`` requests, and so on."""
    looks, kinds = len(places) // every, len(COHORTS)
    at = np.arange(len(places)) // every

    def totals(chosen: np.ndarray, bucket: np.ndarray, width: int, earlier: Any) -> np.ndarray:
        flat = ((at * 2 * kinds + places) * width + bucket)[chosen]
        found = np.bincount(flat, minlength=(looks + 1) * 2 * kinds * width)[
            : looks * 2 * kinds * width
        ]
        found = found.reshape(looks, 2, kinds, width).cumsum(axis=0).cumsum(axis=3)
        found = np.concatenate([found, found.sum(axis=2, keepdims=True)], axis=2)
        return found if earlier is None else found + earlier[-1]

    everyone, none = np.ones(len(places), dtype=bool), np.zeros(len(places), dtype=int)
    failed = drawn["failed"]
    requests = totals(everyone, none, 1, before and before.requests[..., None])
    failures = totals(failed, none, 1, before and before.failures[..., None])
    measured = {
        metric: totals(
            ~failed,
            drawn[metric],
            span(metric)[1] - span(metric)[0] + 1,
            before and before.measured[metric],
        )
        for metric in MEDIANS
    }
    return Totals(requests[..., 0], failures[..., 0], measured)


class Outcome(NamedTuple):
    """How a rollout ended, after how many answers of the candidate and of both."""

    action: str
    candidate: int
    total: int


def run(
    rng: np.random.Generator, world: World, spec: RolloutSpec, every: int, *, simply: bool = False
) -> Outcome:
    """One rollout from its first step to its end; ``every`` so many answers of the candidate a look."""
    rollout = Rollout(2, 1, "progressing", "", spec, {}, None, 0, 0.0, 0, "", None)
    trials: dict[str, Any] = {}
    totals: Totals | None = None
    requests = 0
    while True:
        step = spec.steps[rollout.step or 0]
        share = step.weight / spec.total_weight
        period = math.ceil(every / share)
        enough = max(step.min_requests / share * 1.5, step.min_duration_seconds * PER_SECOND * 1.5)
        places, drawn = draw(
            rng, world, share, math.ceil(enough / period + 1) * period, requests / PER_SECOND
        )
        totals = counted(totals, places, drawn, period)
        for at in range(len(totals.requests)):
            requests += period
            arms = totals.arms(at)
            looks = (
                simple_looks(spec, arms) if simply else look_at(spec, arms, tuple(COHORTS), trials)
            )
            trials = {a.slot.key: a.trial.to_json() for a in looks if a.trial is not None}
            now = requests / PER_SECOND
            action, _ = decide(rollout, arms, looks, Clock(now, now), applied=True)
            if action == "advance":
                totals = Totals(
                    totals.requests[: at + 1],
                    totals.failures[: at + 1],
                    {name: found[: at + 1] for name, found in totals.measured.items()},
                )
                rollout = replace(
                    rollout, step=(rollout.step or 0) + 1, step_since=now, step_base=arms.answers
                )
                break
            if action != "hold":
                return Outcome(action, arms.answers, requests)
        else:
            msg = "a step took longer than was drawn"
            raise RuntimeError(msg)


def simple_looks(spec: RolloutSpec, arms: Arms) -> list[Look]:
    """Each gate is broken once the two confidence sequences, of half its alpha each, lie apart."""
    found = []
    for slot in slots(spec, tuple(COHORTS)):
        candidate, baseline = (
            arm.get(slot.cohort, Counts()) for arm in (arms.candidate, arms.baseline)
        )
        gate, alpha = slot.gate, slot.alpha / 2
        if gate.metric in RATES:
            low = rate_bounds(*share_of(gate, candidate), alpha).low
            limit = rate_bounds(*share_of(gate, baseline), alpha).high + (gate.max_increase or 0.0)
        else:
            q = gate.quantile or 0.5
            low = quantile_bounds(distribution_of(gate, candidate), q, alpha).low
            limit = quantile_bounds(distribution_of(gate, baseline), q, alpha).high * (
                gate.max_ratio or 1.0
            )
        found.append(Look(slot, math.inf if low > limit else -math.inf, None))
    return found


def outcomes(
    world: World,
    spec: RolloutSpec,
    rollouts: int,
    options: argparse.Namespace,
    *,
    simply: bool = False,
) -> list[Outcome]:
    """Many rollouts, each with a seed of its own."""
    label = world.label + (", two intervals" if simply else "")
    return [
        run(np.random.default_rng((options.seed, n)), world, spec, options.every, simply=simply)
        for n in track(range(rollouts), label, transient=True)
    ]


def alike_table(options: argparse.Namespace) -> Iterator[str]:
    """Rollouts of equal arms: every rollback is a false one."""
    yield "| arms alike | gates | judged by | rollouts | false rollbacks | share (95 %) |"
    yield "| --- | --- | --- | ---: | ---: | ---: |"
    steady, waves = (
        World("steady load"),
        World("load in waves, both fail on their crests", waves=True),
    )
    cases = [
        (steady, True, False, options.alike),
        (steady, False, False, options.alike),
        (waves, False, False, options.alike),
        (waves, False, True, options.simple),
    ]
    for world, margins, simply, rollouts in cases:
        found = outcomes(world, document(margins=margins), rollouts, options, simply=simply)
        false = sum(o.action == "rollback" for o in found)
        low, high = rate_bounds(false, rollouts, 0.05)
        yield (
            f"| {world.label} | {'with' if margins else 'without'} margins | {BY[simply]} | {rollouts} "
            f"| {false} | {false / rollouts * 100:.2f} % ({low * 100:.2f} to {high * 100:.2f}) |"
        )


def worse_table(options: argparse.Namespace) -> Iterator[str]:
    """Rollouts of a candidate that is worse than the gates' margins allow."""
    yield (
        "| candidate | judged by | rollouts | rolled back | promoted | candidate's answers until then "
        "(median, 90 %) | share of traffic that met it until then |"
    )
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: |"
    spec = document(margins=True)
    for world in WORSE:
        for simply, rollouts in ((False, options.worse), (True, options.simple)):
            found = outcomes(world, spec, rollouts, options, simply=simply)
            caught = [o for o in found if o.action == "rollback"]
            promoted = sum(o.action == "promote" for o in found)
            delays = [o.candidate for o in caught] or [0]
            shares = [o.candidate / o.total for o in caught] or [0.0]
            yield (
                f"| {world.label} | {BY[simply]} | {rollouts} | {len(caught)} | {promoted} "
                f"| {np.median(delays):,.0f}, {np.quantile(delays, 0.9):,.0f} "
                f"| {np.median(shares) * 100:.2g} % |"
            )


BY = {False: "bets (used)", True: "two intervals"}


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument(
        "--alike", type=int, default=1000, help="rollouts of equal arms, of each kind"
    )
    parser.add_argument("--worse", type=int, default=200, help="rollouts of each worse candidate")
    parser.add_argument("--simple", type=int, default=50, help="of each, judged by two intervals")
    parser.add_argument("--every", type=int, default=10, help="candidate's answers between looks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, help="write the tables into this file, too")
    return parser.parse_args(given)


def setting(options: argparse.Namespace) -> str:
    """What was judged, in a few lines."""
    spec = document(margins=True)
    gates = ", ".join(f"`{gate.label}`" for gate in spec.gates)
    shares = ", ".join(f"{step.weight}" for step in spec.steps)
    cohorts = ", ".join(f"{name} {share * 100:g} %" for name, share in COHORTS.items())
    return (
        f"Steps of {shares} % with {spec.steps[0].min_requests} answers of the candidate each; gates "
        f"{gates}, overall and in each of {len(COHORTS)} cohorts ({cohorts}), alpha {spec.alpha}. "
        f"{ERRORS * 100:g} % errors, latencies and tokens log-normal. A look after every "
        f"{options.every} answers of the candidate."
    )


def main(given: list[str] | None = None) -> None:
    """Run and print two Markdown tables."""
    options = arguments(given)
    from side_by_side import machine

    begun = time.monotonic()
    tables = "\n".join([*alike_table(options), "", *worse_table(options)])
    where = f"{machine()} numpy {np.__version__}; seed {options.seed}."
    took = f"It took {(time.monotonic() - begun) / 60:.0f} minutes on one core."
    print(f"{tables}\n\n{setting(options)}\n\n{where} {took}")
    if options.results:
        options.results.write_text(
            f"# What the controller notices, and what it imagines\n\n{where}\n\n"
            f"```\npython benchmarks/controller.py\n```\n\n{setting(options)}\n\n{tables}\n"
        )


if __name__ == "__main__":
    main()
