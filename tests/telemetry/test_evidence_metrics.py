"""What evaluations found, as metrics."""

from __future__ import annotations

from dataclasses import replace

from measured import Measured
from router.catalogues import snapshot

from softprompt_serve.registry.evidence import Result
from softprompt_serve.registry.snapshot import EMPTY

FOUND = Result(
    prompt="support",
    version="v2",
    cohort="regulated",
    dataset="tickets",
    dataset_sha256="a" * 64,
    evaluator="exact_match",
    items=40,
    passed=30,
    unanswered=0,
    mean=0.75,
    stderr=None,
    run="0" * 32,
    at=1000.0,
)
LABELS = {
    "prompt": "support",
    "version": "v2",
    "cohort": "regulated",
    "dataset": "tickets",
    "evaluator": "exact_match",
}


def test_a_failure_rate_is_shown_by_version_cohort_data_set_and_evaluator() -> None:
    found = Measured()
    found.metrics.evaluations([FOUND], snapshot())
    assert found.value("eval_fail_ratio", **LABELS) == 0.25
    assert found.value("eval_items", **LABELS) == 40


def test_the_newest_numbers_replace_the_old_ones() -> None:
    found = Measured()
    found.metrics.evaluations([FOUND], snapshot())
    found.metrics.evaluations([replace(FOUND, items=50, passed=50)], snapshot())
    assert found.value("eval_fail_ratio", **LABELS) == 0.0
    assert found.value("eval_items", **LABELS) == 50


def test_what_is_no_verdict_on_a_version_that_exists_is_not_shown() -> None:
    found = Measured()
    anchor = replace(FOUND, cohort=None, passed=None)
    gone = replace(FOUND, version="v9")
    stranger = replace(FOUND, prompt="sales")
    found.metrics.evaluations([anchor, gone, stranger], snapshot())
    assert found.series("eval_fail_ratio") == []
    assert found.series("eval_items") == []


def test_items_that_nobody_could_score_have_no_ratio() -> None:
    found = Measured()
    found.metrics.evaluations([replace(FOUND, items=0, passed=0, mean=None)], snapshot())
    assert found.value("eval_items", **LABELS) == 0
    assert found.value("eval_fail_ratio", **LABELS) is None


def test_what_is_gone_is_zero() -> None:
    found = Measured()
    found.metrics.evaluations([FOUND], snapshot())
    found.metrics.evaluations([FOUND], EMPTY)
    assert found.value("eval_items", **LABELS) == 0
    assert found.value("eval_fail_ratio", **LABELS) == 0


def test_beyond_the_limit_the_newest_are_shown_and_the_rest_is_counted() -> None:
    found = Measured(arms=2)
    many = [replace(FOUND, dataset=f"set-{at}", at=float(at)) for at in range(4)]
    found.metrics.evaluations(many, snapshot())
    assert {s["dataset"] for s in found.series("eval_fail_ratio")} == {"set-2", "set-3"}
    assert found.value("metrics_collapsed_total") == 4
