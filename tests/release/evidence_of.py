"""Evidence for tests: runs made from plain lists of scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from softprompt_serve.release.evidence import Answer, Base, Run, Score, Total
from softprompt_serve.release.gates import Gate, Subject, Verdict, judge
from softprompt_serve.release.policy import Policy

NOW = 1_800_000_000.0
DAY = 86_400.0
SERVED = Base("SmolLM2", None, "f" * 64, "a" * 64, "c" * 64)


def digest(name: str) -> str:
    return name.encode().hex().ljust(64, "0")


BASE = Subject("base", "base", digest("base"))
V1 = Subject("v1", "hard", digest("v1"))
V2 = Subject("v2", "soft", digest("v2"))
V4 = Subject("v4", "soft", digest("v4"))
VERSIONS = (BASE, V1, V2, V4)

Values = Mapping[str, Sequence[float | None]]


def right(count: int, of: int) -> list[float | None]:
    """``of`` scores, the first ``count`` of them 1, the rest 0."""
    return [1.0] * count + [0.0] * (of - count)


def scores(
    values: Values, evaluator: str = "exact_match", cohorts: Sequence[str] = ()
) -> Iterable[Score]:
    """Scores of versions by item; None is no score."""
    for version, given in values.items():
        for item, value in enumerate(given):
            cohort = cohorts[item] if cohorts else "default"
            if value is not None:
                yield Score(f"i{item:05}", version, cohort, evaluator, value, value >= 0.5)


def a_run(
    values: Values | None = None,
    *,
    dataset: str = "support-test",
    evaluator: str = "exact_match",
    cohorts: Sequence[str] = (),
    **changes: Any,
) -> Run:
    """A run of yesterday on the served base, of every version in ``values``."""
    found = tuple(scores(values or {}, evaluator, cohorts))
    names = values or {"v1": (), "v4": ()}
    given = {
        "id": "0" * 32,
        "prompt": "support",
        "dataset": dataset,
        "dataset_sha256": "d" * 64,
        "digests": {name: digest(name) for name in names},
        "evaluators": {evaluator: "1"},
        "base": SERVED,
        "at": NOW - DAY,
        "scores": found,
    }
    return Run(**(given | changes))


def answers(
    version: str, seconds: Sequence[float | None], costs: Sequence[float | None] = ()
) -> tuple[Answer, ...]:
    """Answers that took so long; None is an answer that failed."""
    return tuple(
        Answer(
            f"i{item:05}",
            version,
            "default",
            e2e_seconds=value,
            cost_usd=costs[item] if costs else None,
            error="timeout" if value is None else None,
        )
        for item, value in enumerate(seconds)
    )


def a_total(version: str, mean: float, *, items: int = 1000, stderr: float | None = None) -> Total:
    return Total(version, "mmlu_pro/exact_match", mean, stderr, items)


def a_win(**changes: Any) -> dict[str, Any]:
    return {"evaluator": "exact_match", "dataset": "support-test"} | changes


def a_policy(**changes: Any) -> Policy:
    """A win on the test set, and what else is asked."""
    return Policy.model_validate({"baseline": "v1", "win": [a_win()]} | changes)


def judged(policy: Policy, *runs: Run, **changes: Any) -> Verdict:
    """The verdict of v4 against v1, now."""
    given = {"served": SERVED, "now": NOW, "versions": VERSIONS, "prompt": "support"} | changes
    candidate, baseline = given.pop("candidate", V4), given.pop("baseline", V1)
    return judge(policy, candidate, baseline, runs, **given)


def gate(verdict: Verdict, name: str) -> Gate:
    """The gate of that name."""
    (found,) = [one for one in verdict.gates if one.name == name]
    return found
