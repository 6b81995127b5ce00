"""Judging a version: a policy held against evidence. Pure.

Every gate must pass. Each is a test of its own, and no correction for their number is needed: a
version that should fail any one of them passes that one with its small chance at most, and all of
them with no more (an intersection-union test; Berger 1982, "Multiparameter hypothesis testing and
acceptance sampling", Technometrics 24).

Whatever is unknown fails: no evidence, no promotion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from softprompt_serve.artifact import base
from softprompt_serve.release.case import Case
from softprompt_serve.release.gate_cohorts import cohort_gates
from softprompt_serve.release.gate_default import default_gates
from softprompt_serve.release.gate_quality import hold_gates, win_gates
from softprompt_serve.release.gate_service import service_gates
from softprompt_serve.release.gate_warnings import warnings_of
from softprompt_serve.release.policy import BASE, BASELINE
from softprompt_serve.release.verdict import Gate, Subject, Verdict, to_json, to_text

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from softprompt_serve.release.evidence import Base, Run
    from softprompt_serve.release.policy import Policy

__all__ = ["Gate", "Subject", "Verdict", "judge", "to_json", "to_text"]


def judge(
    policy: Policy,
    candidate: Subject,
    baseline: Subject | None,
    runs: Sequence[Run],
    *,
    served: Base,
    now: float,
    versions: Sequence[Subject] = (),
    declared: Collection[str] = (),
    prompt: str | None = None,
) -> Verdict:
    """Hold a policy against the evidence of one version.

    Args:
        policy: what is asked.
        candidate: of whom.
        baseline: the version that ``policy.baseline`` stands for; None if there is none.
        runs: the prompt's evidence, in any order.
        served: the base model that is served.
        now: Unix time.
        versions: all of the prompt's versions, in the order of their making: whom a gate may name
            in ``against``, and who may be better than the baseline.
        declared: cohorts that the server knows.
        prompt: the prompt's name, for hints; unset: what the runs say.
    """
    known = {version.name: version for version in versions}
    for one in (baseline, candidate):
        if one is not None:
            known.setdefault(one.name, one)
    if not any(one.kind == BASE and one.state != "removed" for one in known.values()):
        # Evaluations ask the plain base model by this name, where the prompt has no such version.
        known.setdefault(BASE, Subject(BASE, BASE, base().content.digest))
    newest = sorted(runs, key=lambda run: (run.at, run.id), reverse=True)
    case = Case(
        prompt=prompt or next((run.prompt for run in newest), "PROMPT"),
        policy=policy,
        candidate=candidate,
        baseline=baseline,
        versions=tuple(known.values()),
        runs=tuple(run for run in newest if prompt in (None, run.prompt)),
        served=served,
        now=now,
        declared=declared,
    )
    gates = (
        _baseline(case),
        *(win_gates(case) if policy.win else default_gates(case)),
        *hold_gates(case),
        *cohort_gates(case),
        *service_gates(case),
    )
    return Verdict(candidate, baseline, gates, tuple(warnings_of(case, gates)))


def _baseline(case: Case) -> Gate:
    """What a version is compared with must be there to take over."""
    named, baseline = case.policy.baseline, case.baseline
    wanted = "a version of kind hard that is loaded"
    if baseline is None:
        found = f"{case.prompt} has no version or alias {named}"
        return Gate.of("baseline", found, wanted, case.bring(BASELINE))
    called = baseline.name if named == baseline.name else f"{named} is {baseline.name}"
    found = f"{called}, of kind {baseline.kind}, {baseline.state}"
    hint = ""
    if baseline.kind != "hard" or baseline.state == "removed":
        hint = case.bring(BASELINE)
    elif baseline.state == "unloaded":
        hint = f"Load {case.prompt}@{baseline.name} again."
    numbers = {"version": baseline.name, "kind": baseline.kind, "state": baseline.state}
    return Gate.of("baseline", found, wanted, hint, numbers)
