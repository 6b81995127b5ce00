from __future__ import annotations

import pytest
from release.evidence_of import a_policy, a_run, a_win, gate, judged, right

from softprompt_serve.release.evidence import Run
from softprompt_serve.release.policy import Policy

SIXTY = ["regulated"] * 60


def of_two(mine: list[float | None], theirs: list[float | None], **changes: object) -> Run:
    """A hundred items of the default cohort, all better; then 60 regulated ones."""
    values = {"v1": right(0, 100) + theirs, "v4": right(100, 100) + mine}
    return a_run(values, cohorts=["default"] * 100 + SIXTY, **changes)  # type: ignore[arg-type]


def test_a_protected_cohort_that_is_better_off_passes() -> None:
    verdict = judged(a_policy(), of_two(right(50, 60), right(20, 60)))
    found = gate(verdict, "cohort regulated by exact_match")
    assert verdict.passed
    assert (found.numbers["items"], found.numbers["better"]) == (60, 30)


def test_a_protected_cohort_that_is_hurt_fails_a_version_that_wins() -> None:
    verdict = judged(a_policy(), of_two(right(20, 60), right(30, 60)))
    assert [one.name for one in verdict.failed] == ["cohort regulated by exact_match"]
    assert "v4 has to become better" in verdict.failed[0].hint


def test_equal_answers_need_enough_items_of_the_cohort() -> None:
    run = of_two(right(30, 60), right(30, 60))
    found = gate(judged(a_policy(), run), "cohort regulated by exact_match")
    assert not found.passed
    assert "About 190 items of cohort regulated would show it" in found.hint
    assert judged(a_policy(cohorts={"max_drop": 0.1}), run).passed


def test_too_few_items_of_a_cohort_fail() -> None:
    run = a_run(
        {"v1": right(0, 107), "v4": right(107, 107)}, cohorts=["default"] * 100 + ["regulated"] * 7
    )
    found = gate(judged(a_policy(), run), "cohort regulated by exact_match")
    assert found.hint == "Needs 13 more items of cohort regulated in support-test."


def test_a_cohort_that_a_policy_names_must_have_evidence() -> None:
    policy = a_policy(cohorts={"protected": ["multilingual"]})
    verdict = judged(policy, of_two(right(50, 60), right(20, 60)))
    (failed,) = verdict.failed
    assert (failed.name, failed.found) == ("cohort multilingual", "no evidence for multilingual")
    assert 'Needs 20 more items with `"cohort": "multilingual"` in support-test' in failed.hint


def test_a_policy_that_names_nobody_protects_nobody() -> None:
    run = of_two(right(20, 60), right(30, 60))
    assert judged(a_policy(cohorts={"protected": []}), run).passed


def test_unless_a_policy_says_whom_four_are_protected_where_they_occur() -> None:
    run = a_run(
        {"v1": right(0, 180), "v4": right(180, 180)},
        cohorts=["default"] * 60 + ["multilingual"] * 60 + ["vip"] * 60,
    )
    names = [one.name for one in judged(a_policy(), run).gates if one.name.startswith("cohort")]
    assert names == ["cohort multilingual by exact_match"]


def test_of_these_four_what_the_server_declares_must_have_evidence() -> None:
    run = of_two(right(50, 60), right(20, 60))
    verdict = judged(a_policy(), run, declared=("regulated", "multilingual", "vip"))
    assert [one.name for one in verdict.failed] == ["cohort multilingual"]


def test_a_cohorts_items_are_taken_together_over_data_sets() -> None:
    policy = a_policy(hold=[a_win(dataset="ood", max_drop=0.2)])
    test, ood = (
        a_run(
            {"v1": right(0, 62), "v4": right(62, 62)},
            cohorts=["default"] * 50 + ["regulated"] * 12,
            dataset=dataset,
            id=dataset.encode().hex().ljust(32, "0"),
        )
        for dataset in ("support-test", "ood")
    )
    found = gate(judged(policy, test, ood), "cohort regulated by exact_match")
    assert (found.passed, found.numbers["items"]) == (True, 24)
    assert found.numbers["dataset"] == "ood, support-test"


def test_data_sets_that_a_policy_does_not_name_say_nothing_of_cohorts() -> None:
    hurt = of_two(right(0, 60), right(60, 60), dataset="other", id="1" * 32)
    good = a_run({"v1": right(0, 100), "v4": right(100, 100)})
    assert judged(a_policy(), good, hurt).passed
    assert not judged(Policy(baseline="v1"), good, hurt).passed


def test_each_evaluator_of_a_cohort_is_a_gate() -> None:
    policy = a_policy(hold=[a_win(evaluator="tool_choice", dataset="tools", max_drop=0.5)])
    good = of_two(right(50, 60), right(20, 60))
    tools = a_run(
        {"v1": right(55, 60), "v4": right(35, 60)},
        dataset="tools",
        evaluator="tool_choice",
        cohorts=["tool_calling"] * 60,
        id="1" * 32,
    )
    verdict = judged(policy, good, tools)
    assert [one.name for one in verdict.failed] == ["cohort tool_calling by tool_choice"]


def test_what_a_candidate_did_not_answer_is_counted_where_it_belongs() -> None:
    run = of_two([None] * 10 + right(50, 50), right(40, 60))
    found = gate(judged(a_policy(), run), "cohort regulated by exact_match")
    assert found.numbers["candidate_missing"] == 10
    assert found.numbers["candidate_mean"] == pytest.approx(50 / 60)


def test_what_the_baseline_did_not_answer_is_left_out_where_it_belongs() -> None:
    run = of_two(right(60, 60), [None] * 10 + right(0, 50))
    found = gate(judged(a_policy(), run), "cohort regulated by exact_match")
    assert (found.numbers["items"], found.numbers["left_out"]) == (50, 10)


def test_cohorts_are_compared_with_the_baseline_alone() -> None:
    run = a_run({"base": right(60, 60), "v1": right(0, 60), "v4": right(40, 60)}, cohorts=SIXTY)
    found = gate(judged(a_policy(), run), "cohort regulated by exact_match")
    assert (found.passed, found.numbers["against"]) == (True, "v1")
