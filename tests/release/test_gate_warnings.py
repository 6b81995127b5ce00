from __future__ import annotations

from dataclasses import replace

import pytest
from release.evidence_of import DAY, NOW, VERSIONS, a_policy, a_run, digest, judged, right

from softprompt_serve.release.policy import Policy
from softprompt_serve.release.verdict import Subject

BETTER = Subject("v0", "hard", digest("v0"))
WITH_BETTER = (BETTER, *VERSIONS)
GOOD = a_run({"v1": right(21, 160), "v4": right(117, 160)})


def test_evidence_that_leaves_nothing_to_say_has_no_warnings() -> None:
    assert judged(a_policy(), GOOD).warnings == ()


@pytest.mark.parametrize("policy", [a_policy(), Policy(baseline="v1")])
def test_a_better_hard_version_makes_a_weak_baseline(policy: Policy) -> None:
    run = a_run({"v0": right(60, 160), "v1": right(21, 160), "v4": right(117, 160)})
    (warning,) = judged(policy, run, versions=WITH_BETTER).warnings
    assert warning.startswith(
        "Weak baseline: hard version v0 is better than v1 by exact_match on support-test: 0.375 "
        "against 0.131 on 160 items (95 % interval +0.1"
    )
    assert "chance" not in warning


def test_a_hard_version_that_is_a_little_better_may_be_so_by_chance() -> None:
    run = a_run({"v0": right(22, 160), "v1": right(21, 160), "v4": right(117, 160)})
    (warning,) = judged(a_policy(), run, versions=WITH_BETTER).warnings
    assert warning.endswith("which may be chance.")


def test_a_base_model_that_needs_no_prompt_makes_a_weak_baseline() -> None:
    run = a_run({"base": right(60, 160), "v1": right(21, 160), "v4": right(117, 160)})
    (warning,) = judged(a_policy(), run).warnings
    assert "base version base is better than v1" in warning


def test_no_soft_version_makes_a_weak_baseline() -> None:
    run = a_run({"v1": right(21, 160), "v2": right(60, 160), "v4": right(117, 160)})
    assert judged(a_policy(), run).warnings == ()


def test_another_content_of_the_same_name_does_not_count() -> None:
    run = a_run({"v0": right(60, 160), "v1": right(21, 160), "v4": right(117, 160)})
    other = replace(BETTER, digest="0" * 64)
    assert judged(a_policy(), run, versions=(other, *VERSIONS)).warnings == ()


def test_evidence_that_soon_stops_counting_says_so() -> None:
    (warning,) = judged(a_policy(), replace(GOOD, at=NOW - 28 * DAY)).warnings
    assert warning == ("Run 000000000000 of 2026-12-18 on support-test stops counting in 2.0 days.")


def test_runs_that_were_repeated_say_so() -> None:
    tries = [replace(GOOD, id=f"{n}" * 32, at=NOW - n * DAY) for n in range(1, 4)]
    (warning,) = judged(a_policy(), *tries).warnings
    assert warning.startswith("3 runs compare v4 and v1 on support-test")


def test_a_data_set_that_changed_says_so() -> None:
    older = replace(GOOD, id="1" * 32, at=NOW - 2 * DAY, dataset_sha256="e" * 64)
    (warning,) = judged(a_policy(), GOOD, older).warnings
    assert warning.startswith("support-test is not the same in all runs")


def test_a_judge_that_is_the_served_model_says_so() -> None:
    run = replace(GOOD, evaluators={"exact_match": "judge 1, model smollm2"})
    (warning,) = judged(a_policy(), run).warnings
    assert "exact_match is a judge that is the served base model itself" in warning


def test_gates_that_rest_on_few_items_say_so() -> None:
    run = a_run({"v1": right(5, 60), "v4": right(50, 60)})
    (warning,) = judged(a_policy(), run).warnings
    assert warning == "`win exact_match on support-test` rests on 60 items."
