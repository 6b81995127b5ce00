from __future__ import annotations

from typing import Any

import pytest

from softprompt_serve.evaluation.summary import summary_of
from softprompt_serve.release.evidence import Answer, Base, Run, Score, Total


def run_of(**parts: Any) -> Run:
    digests = {"v1": "a" * 64, "v2": "b" * 64}
    return Run("0" * 32, "support", "tickets", "c" * 64, digests, {"e": "1"}, Base(), 1.0, **parts)


def scores(version: str, values: str, cohort: str = "default", evaluator: str = "e") -> list[Score]:
    return [
        Score(f"{cohort}-{at}", version, cohort, evaluator, float(v), passed=float(v) >= 0.5)
        for at, v in enumerate(values.split())
    ]


def row(summary: dict[str, Any], version: str, cohort: str = "all") -> dict[str, Any]:
    (found,) = [r for r in summary["scores"] if (r["version"], r["cohort"]) == (version, cohort)]
    return found


def test_right_or_wrong_has_wilsons_interval() -> None:
    found = row(summary_of(run_of(scores=(*scores("v1", "1 1 1 0"),))), "v1")
    assert (found["items"], found["passed"], found["mean"]) == (4, 3, 0.75)
    assert found["low"] == pytest.approx(0.3006, abs=1e-4)
    assert found["high"] == pytest.approx(0.9544, abs=1e-4)


def test_graded_values_have_the_means_interval() -> None:
    found = row(summary_of(run_of(scores=(*scores("v1", "0.2 0.4 0.6"),))), "v1")
    assert found["mean"] == pytest.approx(0.4)
    assert found["high"] - 0.4 == pytest.approx(1.96 * 0.2 / 3**0.5, abs=1e-3)


def test_differences_are_of_pairs_to_the_first_version() -> None:
    found = (*scores("v1", "0 0 1 1 1"), *scores("v2", "1 1 1 0"))
    difference = row(summary_of(run_of(scores=found)), "v2")["difference"]
    assert difference["pairs"] == 4
    assert difference["mean"] == pytest.approx(0.25)
    assert (difference["better"], difference["worse"]) == (2, 1)


def test_cohorts_stand_below_all_of_them() -> None:
    found = (*scores("v1", "1 1"), *scores("v1", "0 0", "regulated"))
    summary = summary_of(run_of(scores=found))
    assert row(summary, "v1")["mean"] == 0.5
    assert row(summary, "v1", "regulated")["mean"] == 0.0
    assert [r["cohort"] for r in summary["scores"][::2]] == ["all", "default", "regulated"]


def test_a_version_that_was_not_scored_has_no_figures() -> None:
    found = row(summary_of(run_of(scores=(*scores("v1", "1"),))), "v2")
    assert (found["items"], found["mean"], found["low"]) == (0, None, None)
    assert found["difference"]["mean"] is None


def test_answers_are_counted_with_errors_and_times() -> None:
    answers = (
        Answer("a", "v1", "default", 0.1, 0.5, 30, 20, 4, 0.25),
        Answer("b", "v1", "default", 0.3, 0.7, 50, 20, 8, 0.75),
        Answer("c", "v1", "default", error="timeout"),
    )
    first = summary_of(run_of(answers=answers))["answers"][0]
    assert (first["items"], first["errors"]) == (3, {"timeout": 1})
    assert first["ttft_seconds"]["p50"] == pytest.approx(0.2)
    assert first["visible_tokens"] == 40
    assert first["cost_usd"] == 0.5


def test_a_cost_that_is_not_known_of_every_answer_is_none() -> None:
    answers = (
        Answer("a", "v1", "default", cost_usd=0.25),
        Answer("b", "v1", "default"),
    )
    assert summary_of(run_of(answers=answers))["answers"][0]["cost_usd"] is None


def test_totals_and_missing_verdicts_are_told() -> None:
    totals = (Total("v1", "mmlu_pro/exact_match", 0.4, 0.01, 100),)
    unscored = {("a", "v1", "judge"): "no", ("b", "v1", "judge"): "no"}
    summary = summary_of(run_of(totals=totals), unscored)
    assert summary["totals"][0]["mean"] == 0.4
    assert summary["unscored"] == [{"evaluator": "judge", "version": "v1", "items": 2}]
