"""Runs of evaluations for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from softprompt_serve.artifact import Content
from softprompt_serve.release.evidence import Answer, Base, Run, Score, Total

RUN_ID = "0123456789abcdef0123456789abcdef"
BASE = Base("acme/tiny", "main", "f" * 64, "e" * 64, "d" * 64)
TEXTS = {name: Content("hard", text=f"text of {name}") for name in ("v1", "v2", "v3", "v4")}
DIGESTS = {name: content.digest for name, content in TEXTS.items()}
TWO = {name: DIGESTS[name] for name in ("v1", "v2")}
AT = 1_760_000_000.0
EVALUATOR = "exact_match"
TOTAL = "mmlu_pro/exact_match"


def run_id(number: int) -> str:
    return f"{number:032x}"


def scored(
    digests: Mapping[str, str],
    passed: Mapping[str, Sequence[bool]] | None = None,
    *,
    cohorts: Sequence[str] = ("default", "regulated"),
    evaluators: Sequence[str] = (EVALUATOR,),
    **about: Any,
) -> Run:
    """A run in which each version gets the verdicts of ``passed``, of item 0, 1, …

    The items are in the cohorts by turns; without ``passed`` each version passes 3 of 4.
    """
    passed = passed or dict.fromkeys(digests, (True, True, False, True))
    items = [
        (f"item-{number}", cohorts[number % len(cohorts)], version, verdict)
        for version, verdicts in passed.items()
        for number, verdict in enumerate(verdicts)
    ]
    given: dict[str, Any] = {
        "id": RUN_ID,
        "prompt": "support",
        "dataset": "tickets",
        "dataset_sha256": "a" * 64,
        "digests": digests,
        "evaluators": dict.fromkeys(evaluators, "1"),
        "base": BASE,
        "at": AT,
        "sampling": {"temperature": 0.0, "max_tokens": 64},
        "actor": "ada",
        "scores": tuple(
            Score(item, version, cohort, name, float(verdict), verdict)
            for item, cohort, version, verdict in items
            for name in evaluators
        ),
        "answers": tuple(
            Answer(item, version, cohort, 0.125, 0.5, 100, 20, 30, 0.001, None, "c" * 64)
            for item, cohort, version, _ in items
        ),
    }
    return Run(**{**given, **about})


def published(digests: Mapping[str, str], mean: float = 0.25, **about: Any) -> Run:
    """A run of which only means are known."""
    totals = tuple(Total(version, TOTAL, mean, 0.01, 1000) for version in digests)
    given: dict[str, Any] = {
        "dataset": "mmlu_pro",
        "source": "lm-eval",
        "evaluators": {TOTAL: "3.0"},
        "scores": (),
        "answers": (),
        "totals": totals,
    }
    return scored(digests, **{**given, **about})
