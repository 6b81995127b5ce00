"""What a person should know of a judgement, and no gate asks. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from softprompt_serve.release.case import DAY, called
from softprompt_serve.release.evidence_pick import compare_pairs
from softprompt_serve.release.gate_words import interval, percent
from softprompt_serve.release.pairs import pair

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from softprompt_serve.release.case import Case
    from softprompt_serve.release.evidence import Run
    from softprompt_serve.release.verdict import Gate

_CONFIDENCE: Final = 0.95
_NEARLY: Final = 0.1
"""Part of its life that evidence has left when it is called old."""

_FEW: Final = 100
_LOOKS: Final = 3
_OFTEN_LEFT_OUT: Final = 0.05


def warnings_of(case: Case, gates: Sequence[Gate]) -> Iterator[str]:
    """Each thing worth knowing, in a sentence or two; none twice."""
    used = {str(gate.numbers["run"]) for gate in gates if "run" in gate.numbers}
    runs = [run for run in case.runs if run.id in used]
    said = (
        *_weak_baseline(case),
        *_nearly_old(case, runs),
        *_looked_often(case, runs),
        *_judged_by_itself(case, runs),
        *_few_items(gates),
        *_left_out(gates),
    )
    yield from dict.fromkeys(said)
    if not case.policy.same_base:
        yield "Evidence counts whatever base model it was made on (`same_base: false`)."


def _weak_baseline(case: Case) -> Iterator[str]:
    """Versions that anybody can read and that did better than the baseline, in the same runs."""
    baseline = case.baseline
    if baseline is None:
        return
    others = [
        version
        for version in case.versions
        if not version.learned and version.name not in (baseline.name, case.candidate.name)
    ]
    for evaluator, dataset in case.measured():
        for other in others:
            run = case.find(other, baseline, dataset=dataset, evaluator=evaluator).run
            pairs = run and pair(case.index, run, evaluator, other.name, baseline.name)
            if not pairs or not pairs.items:
                continue
            found = compare_pairs(pairs, _CONFIDENCE, 0.0)
            if found.difference > 0.0:
                sure = "" if found.exceeds else ", which may be chance"
                yield (
                    f"Weak baseline: {other.kind} version {other.name} is better than "
                    f"{baseline.name} by {evaluator} on {dataset}: {found.candidate_mean:.3f} "
                    f"against {found.against_mean:.3f} on {found.items} items "
                    f"({interval(found)}){sure}."
                )


def _nearly_old(case: Case, runs: Iterable[Run]) -> Iterator[str]:
    for run in runs:
        left = case.policy.max_age_days - (case.now - run.at) / DAY
        if left < case.policy.max_age_days * _NEARLY:
            yield f"{called(run).capitalize()} on {run.dataset} stops counting in {left:.1f} days."


def _looked_often(case: Case, runs: Iterable[Run]) -> Iterator[str]:
    """Runs are repeated until one is lucky more often than anybody admits."""
    both = {one.name: one.digest for one in (case.candidate, case.baseline) if one is not None}
    for run in runs:
        alike = [
            other
            for other in case.runs
            if other.dataset == run.dataset
            and all(other.digests.get(name) == digest for name, digest in both.items())
        ]
        if len(alike) >= _LOOKS:
            yield (
                f"{len(alike)} runs compare {' and '.join(both)} on {run.dataset}, and the newest "
                "that counts decides: with each try, chance has another."
            )
        if len({other.dataset_sha256 for other in alike}) > 1:
            yield f"{run.dataset} is not the same in all runs; its newest content decides."


def _judged_by_itself(case: Case, runs: Iterable[Run]) -> Iterator[str]:
    names = (case.served.name, case.served.fingerprint)
    served = [name.rpartition("/")[2].lower() for name in names if name]
    for run in runs:
        for evaluator, version in run.evaluators.items():
            if any(name and name in version.lower() for name in served):
                yield (
                    f"{evaluator} is a judge that is the served base model itself ({version}): it "
                    "may prefer what it would say."
                )


def _few_items(gates: Iterable[Gate]) -> Iterator[str]:
    for gate in gates:
        items = gate.numbers.get("items", _FEW)
        if gate.passed and isinstance(items, int) and items < _FEW:
            yield f"`{gate.name}` rests on {items} items."


def _left_out(gates: Iterable[Gate]) -> Iterator[str]:
    for gate in gates:
        out, items = gate.numbers.get("left_out", 0), gate.numbers.get("items", 0)
        if isinstance(out, int) and isinstance(items, int) and out > _OFTEN_LEFT_OUT * items:
            share = percent(out / (items + out))
            yield (
                f"`{gate.name}` leaves {out} items out ({share}), as {gate.numbers['against']} did "
                "not answer them."
            )
