from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from release.evidence_of import (
    BASE,
    DAY,
    NOW,
    SERVED,
    V1,
    V4,
    a_policy,
    a_run,
    a_total,
    a_win,
    digest,
    gate,
    judged,
    right,
)

from softprompt_serve.artifact import base
from softprompt_serve.release.evidence import Base, Run
from softprompt_serve.release.gates import Subject, Verdict, to_json, to_text
from softprompt_serve.release.policy import Policy

WIN = "win exact_match on support-test"
GOOD = a_run({"v1": right(21, 160), "v4": right(117, 160)})
EVAL = "softprompt-serve eval run --prompt support --versions"


def test_the_better_version_passes_with_its_numbers() -> None:
    verdict = judged(a_policy(), GOOD)
    found = gate(verdict, WIN)
    assert verdict.passed
    assert found.numbers["items"] == 160
    assert found.numbers["difference"] == pytest.approx(0.6)
    assert (found.numbers["better"], found.numbers["worse"]) == (96, 0)
    assert found.numbers["method"] == "McNemar's exact test, Tango's score interval"
    assert found.found.startswith("v4 0.731 against v1 0.131 on 160 items: +0.600 (95 % interval")
    assert found.hint == ""


def test_no_evidence_no_promotion() -> None:
    for policy in (a_policy(), Policy(baseline="v1")):
        verdict = judged(policy)
        assert not verdict.passed
        assert all(failed.hint for failed in verdict.failed)


def test_without_evidence_the_hint_is_a_command() -> None:
    found = gate(judged(a_policy()), WIN)
    assert found.found == "no run of exact_match on support-test"
    command = f"Run `{EVAL} v1,v4 --dataset support-test.jsonl --evaluators exact_match`."
    assert found.hint == command


def test_the_worse_version_fails_and_is_told_that_more_items_are_no_help() -> None:
    found = gate(judged(a_policy(), a_run({"v1": right(90, 160), "v4": right(80, 160)})), WIN)
    assert not found.passed
    assert "more items would not show it" in found.hint
    assert "items_needed" not in found.numbers


def test_a_difference_that_may_be_chance_is_told_how_many_items_would_show_it() -> None:
    found = gate(judged(a_policy(), a_run({"v1": right(84, 160), "v4": right(87, 160)})), WIN)
    assert not found.passed
    needed = found.numbers["items_needed"]
    assert f"About {needed} items would show it, 4 times in 5" in found.hint
    assert "must be above +0.000; its 95 % interval" in found.hint


def test_where_interval_and_exact_test_differ_the_hint_says_so() -> None:
    found = gate(judged(a_policy(), a_run({"v1": right(40, 80), "v4": right(45, 80)})), WIN)
    assert found.numbers["low"] > 0.0  # type: ignore[operator]
    assert not found.passed
    assert "by the exact test, whose p-value is 0.031 and must be at most 0.025" in found.hint


def test_too_few_items_fail_whatever_they_say() -> None:
    found = gate(judged(a_policy(), a_run({"v1": right(0, 27), "v4": right(27, 27)})), WIN)
    assert not found.passed
    assert found.hint == "Needs 23 more items in support-test."


def test_a_margin_must_be_exceeded() -> None:
    run = a_run({"v1": right(80, 160), "v4": right(96, 160)})
    assert gate(judged(a_policy(win=[a_win(margin=0.05)]), run), WIN).passed
    assert not gate(judged(a_policy(win=[a_win(margin=0.08)]), run), WIN).passed


def test_every_win_must_be_won() -> None:
    policy = a_policy(win=[a_win(), a_win(evaluator="f1")])
    verdict = judged(policy, GOOD)
    assert [one.passed for one in verdict.gates] == [True, True, False]
    assert not verdict.passed


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (replace(GOOD, digests={"v1": digest("v1"), "v4": "0" * 64}), "asked another v4"),
        (replace(GOOD, digests={"v1": "0" * 64, "v4": digest("v4")}), "asked another v1"),
        (replace(GOOD, digests={"v4": digest("v4")}), "does not have v1"),
        (replace(GOOD, at=NOW - 31 * DAY), "is 31 days old, at most 30 count"),
        (replace(GOOD, at=NOW + DAY), "is dated in the future"),
        (replace(GOOD, base=Base("SmolLM2")), "base model of unknown fingerprint"),
        (
            replace(GOOD, base=replace(SERVED, fingerprint="0" * 64)),
            "another base model (weights 000000000000, served ffffffffffff)",
        ),
        (replace(GOOD, base=replace(SERVED, tokenizer_fingerprint="b" * 64)), "tokenizer bbbb"),
        (
            replace(GOOD, base=replace(SERVED, chat_template_sha256=None)),
            "chat template unknown, served cccc",
        ),
    ],
)
def test_evidence_that_is_not_about_this_does_not_count(run: Run, why: str) -> None:
    found = gate(judged(a_policy(), run), WIN)
    assert not found.passed
    assert why in found.found
    assert found.hint.startswith("Run `")


def test_evidence_of_another_prompt_does_not_count() -> None:
    assert not judged(a_policy(), replace(GOOD, prompt="sales")).passed


def test_a_served_base_of_unknown_fingerprint_has_no_evidence() -> None:
    found = gate(judged(a_policy(), GOOD, served=Base("SmolLM2")), WIN)
    assert not found.passed
    assert "the fingerprint of the served base model is unknown" in found.found
    assert "`same_base: false`" in found.hint


def test_a_policy_may_count_evidence_of_any_base() -> None:
    verdict = judged(a_policy(same_base=False), replace(GOOD, base=Base()))
    assert verdict.passed
    assert "whatever base model" in verdict.warnings[-1]


def test_a_tokenizer_that_nobody_can_name_is_the_same() -> None:
    base = replace(SERVED, tokenizer_fingerprint=None)
    assert judged(a_policy(), replace(GOOD, base=base), served=base).passed


def test_a_clock_that_is_a_little_ahead_is_no_future() -> None:
    assert judged(a_policy(), replace(GOOD, at=NOW + 600.0)).passed


def test_the_newest_run_that_counts_decides() -> None:
    bad = replace(GOOD, id="1" * 32, at=NOW - 60.0, scores=a_run({"v1": right(9, 9)}).scores)
    assert not judged(a_policy(), GOOD, bad).passed
    other = replace(bad, base=Base("another", None, "0" * 64))
    assert judged(a_policy(), GOOD, other).passed


def test_a_pinned_content_of_the_data_set_alone_counts() -> None:
    assert judged(a_policy(win=[a_win(dataset_sha256="d" * 64)]), GOOD).passed
    found = gate(judged(a_policy(win=[a_win(dataset_sha256="e" * 64)]), GOOD), WIN)
    assert "is on another content of support-test" in found.found


def test_what_the_candidate_did_not_answer_counts_as_failed() -> None:
    mine = [1.0] * 100 + [None] * 60
    found = gate(judged(a_policy(), a_run({"v1": right(80, 160), "v4": mine})), WIN)
    assert (found.numbers["items"], found.numbers["candidate_missing"]) == (160, 60)
    assert found.numbers["candidate_mean"] == pytest.approx(100 / 160)
    assert "60 that v4 did not answer count as failed" in found.found


def test_a_candidate_that_answers_nothing_fails() -> None:
    found = gate(judged(a_policy(), a_run({"v1": right(80, 160), "v4": [None] * 160})), WIN)
    assert (found.numbers["candidate_mean"], found.passed) == (0.0, False)


def test_nobody_wins_by_the_baselines_errors() -> None:
    theirs = [None] * 60 + [1.0] * 100
    verdict = judged(a_policy(), a_run({"v1": theirs, "v4": right(160, 160)}))
    found = gate(verdict, WIN)
    assert (found.numbers["items"], found.numbers["left_out"]) == (100, 60)
    assert not found.passed
    assert any("leaves 60 items out (37.5 %)" in warning for warning in verdict.warnings)


def test_a_failed_item_is_worth_the_lowest_score_there_is() -> None:
    verdict = judged(a_policy(), a_run({"v1": [-4.0, -1.0] * 50, "v4": [*[-1.0] * 99, None]}))
    assert gate(verdict, WIN).numbers["candidate_mean"] == pytest.approx(-1.03)


def test_a_drop_within_bounds_holds() -> None:
    policy = a_policy(hold=[a_win(dataset="ood", max_drop=0.05)])
    ood = a_run({"v1": right(90, 300), "v4": right(90, 300)}, dataset="ood", id="2" * 32)
    verdict = judged(policy, GOOD, ood)
    assert verdict.passed
    assert gate(verdict, "hold exact_match on ood").numbers["margin"] == -0.05


def test_equal_answers_to_few_items_do_not_prove_that_nothing_was_lost() -> None:
    policy = a_policy(hold=[a_win(dataset="ood", max_drop=0.02)])
    ood = a_run({"v1": right(30, 60), "v4": right(30, 60)}, dataset="ood", id="2" * 32)
    found = gate(judged(policy, GOOD, ood), "hold exact_match on ood")
    assert not found.passed
    assert "About 190 items" in found.hint


def test_a_drop_can_be_held_against_the_base_model() -> None:
    policy = a_policy(hold=[a_win(against="base", max_drop=0.02)])
    run = a_run({"base": right(70, 160), "v1": right(21, 160), "v4": right(60, 160)})
    found = gate(judged(policy, run), f"hold{WIN[3:]} against base")
    assert not found.passed
    assert found.numbers["against"] == "base"
    assert "v4 has to become better" in found.hint


def test_of_several_base_versions_the_newest_is_meant() -> None:
    policy = a_policy(hold=[a_win(against="base")])
    newer = Subject("base2", "base", digest("base2"))
    run = a_run({"v1": right(21, 160), "v4": right(117, 160), "base2": right(0, 160)})
    verdict = judged(policy, run, versions=(BASE, V1, V4, newer))
    assert verdict.gates[2].numbers["against"] == "base2"


def test_a_drop_can_be_held_against_any_version() -> None:
    policy = a_policy(hold=[a_win(against="v2", max_drop=0.02)])
    run = a_run({"v1": right(21, 160), "v2": right(60, 160), "v4": right(117, 160)})
    assert judged(policy, run).passed


def test_the_plain_base_model_needs_no_version() -> None:
    policy = a_policy(hold=[a_win(against="base")])
    scores = {"base": right(0, 160), "v1": right(21, 160), "v4": right(117, 160)}
    plain = base().content.digest
    run = replace(a_run(scores), digests={"v1": V1.digest, "v4": V4.digest, "base": plain})
    assert judged(policy, run, versions=(V1, V4)).passed
    assert not judged(policy, GOOD, versions=(V1, V4)).passed


@pytest.mark.parametrize(
    ("against", "said"), [("base", "no version of kind base"), ("v9", "no version v9")]
)
def test_nobody_to_compare_with_fails(against: str, said: str) -> None:
    policy, misnamed = a_policy(hold=[a_win(against=against)]), replace(BASE, kind="hard")
    verdict = judged(policy, GOOD, versions=(misnamed, V1, V4))
    found = gate(verdict, f"hold{WIN[3:]} against {against}")
    assert (found.passed, said in found.found) == (False, True)


MMLU = {"evaluator": "mmlu_pro/exact_match", "dataset": "mmlu_pro", "against": "base"}
MMLU_GATE = "hold mmlu_pro/exact_match on mmlu_pro against base"


def a_benchmark(name: str, mean: float, **changes: object) -> Run:
    """An import of one version's mean."""
    return replace(
        a_run({name: ()}, dataset="mmlu_pro", evaluator="mmlu_pro/exact_match"),
        id=name.encode().hex().ljust(32, "0"),
        totals=(a_total(name, mean, items=12_000),),
        **changes,  # type: ignore[arg-type]
    )


def test_public_benchmarks_are_compared_as_means_of_several_runs() -> None:
    policy = a_policy(hold=[MMLU])
    verdict = judged(policy, GOOD, a_benchmark("base", 0.40), a_benchmark("v4", 0.398))
    found = gate(verdict, MMLU_GATE)
    assert verdict.passed
    assert found.numbers["method"] == "normal interval of two unpaired means"
    assert "unpaired" in found.found
    assert not judged(policy, GOOD, a_benchmark("base", 0.40), a_benchmark("v4", 0.385)).passed


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"dataset_sha256": "e" * 64}, "contents of the data set"),
        ({"evaluators": {"mmlu_pro/exact_match": "2"}}, "evaluators"),
        ({"sampling": {"temperature": 1.0}}, "sampling"),
    ],
)
def test_means_that_were_measured_differently_are_not_compared(
    changes: dict[str, object], what: str
) -> None:
    runs = a_benchmark("base", 0.4, **changes), a_benchmark("v4", 0.4)
    found = gate(judged(a_policy(hold=[MMLU]), GOOD, *runs), MMLU_GATE)
    assert (found.passed, f"different {what}" in found.found) == (False, True)


def test_imported_results_are_paired_where_items_are_known() -> None:
    runs = []
    for name, hits in (("base", 600), ("v4", 598)):
        values = {name: right(hits, 1000)}
        scores = a_run(values, dataset="mmlu_pro", evaluator="mmlu_pro/exact_match").scores
        runs.append(replace(a_benchmark(name, 0.6), scores=scores))
    found = gate(judged(a_policy(hold=[MMLU]), GOOD, *runs), MMLU_GATE)
    assert (found.numbers["items"], found.numbers["worse"]) == (1000, 2)
    assert found.passed


def test_items_of_one_side_alone_leave_means() -> None:
    scores = a_run({"base": right(600, 1000)}, evaluator="mmlu_pro/exact_match").scores
    runs = replace(a_benchmark("base", 0.4), scores=scores), a_benchmark("v4", 0.4)
    found = gate(judged(a_policy(hold=[MMLU]), GOOD, *runs), MMLU_GATE)
    assert "two unpaired means" in str(found.numbers["method"])


def test_where_results_come_from_elsewhere_the_hint_is_to_import_them() -> None:
    hint = (
        "Import results of base and of v4: `softprompt-serve eval import --prompt support "
        "--version v4 --lm-eval RESULTS.json`."
    )
    for runs in ((GOOD,), (GOOD, replace(a_benchmark("v4", 0.4), source="lm-eval"))):
        assert gate(judged(a_policy(hold=[MMLU]), *runs), MMLU_GATE).hint == hint


def test_a_command_can_be_typed_as_it_stands() -> None:
    policy = a_policy(win=[a_win(evaluator="regex:^(a|b)$")])
    found = gate(judged(policy), "win regex:^(a|b)$ on support-test")
    assert found.hint.endswith("--evaluators 'regex:^(a|b)$'`.")


def test_one_mean_alone_is_no_evidence() -> None:
    found = gate(judged(a_policy(hold=[MMLU]), GOOD, a_benchmark("v4", 0.4)), MMLU_GATE)
    assert found.found == (
        "nothing of base: no run that counts: run 763400000000 of 2027-01-14 does not have base"
    )


@pytest.mark.parametrize(
    ("baseline", "said", "hint"),
    [
        (None, "support has no version or alias v1", "Import a hard version"),
        (replace(V1, state="removed"), "removed", "Import a hard version"),
        (replace(V1, state="unloaded"), "unloaded", "Load support@v1 again"),
        (replace(V1, kind="base"), "of kind base", "Import a hard version"),
        (replace(V1, kind="soft"), "of kind soft", "Import a hard version"),
    ],
)
def test_a_baseline_that_could_not_take_over_fails(
    baseline: Subject | None, said: str, hint: str
) -> None:
    for policy in (a_policy(), Policy(baseline="v1")):
        verdict = judged(policy, GOOD, baseline=baseline, versions=())
        found = gate(verdict, "baseline")
        assert not verdict.passed
        assert (found.passed, said in found.found, hint in found.hint) == (False, True, True)


def test_without_a_baseline_every_gate_that_needs_it_says_so() -> None:
    policy = a_policy(latency={"max_ratio": 1.1}, cohorts={"protected": ["regulated"]})
    verdict = judged(policy, GOOD, baseline=None)
    assert not any(one.passed for one in verdict.gates)
    assert "no baseline" in gate(verdict, WIN).found
    assert "no baseline" in gate(verdict, "latency p99 ratio").found


def test_the_default_policy_lets_the_better_version_pass() -> None:
    verdict = judged(Policy(baseline="v1"), GOOD)
    assert verdict.passed
    assert [one.name for one in verdict.gates] == ["baseline", "win any", "lose none"]


def test_by_default_one_win_of_many_must_be_surer() -> None:
    """Six better of 80 and none worse: p = 0.016 is enough alone, and not among 8 comparisons."""
    lucky = a_run({"v1": right(40, 80), "v4": right(46, 80)})
    dull = [
        a_run({"v1": right(40, 80), "v4": right(40, 80)}, dataset=f"d{n}", id=f"{n}" * 32)
        for n in range(1, 8)
    ]
    assert gate(judged(Policy(baseline="v1"), lucky), "win any").passed
    found = gate(judged(Policy(baseline="v1"), lucky, *dull), "win any")
    assert not found.passed
    assert found.numbers["comparisons"] == 8
    assert found.numbers["confidence"] == pytest.approx(1 - 0.05 / 8)


def test_by_default_nothing_may_be_lost() -> None:
    lost = a_run({"v1": right(60, 100), "v4": right(40, 100)}, dataset="ood", id="1" * 32)
    verdict = judged(Policy(baseline="v1"), GOOD, lost)
    found = gate(verdict, "lose none")
    assert gate(verdict, "win any").passed
    assert not found.passed
    assert found.found.startswith("exact_match on ood: v4 0.400 against v1 0.600")


def test_by_default_means_alone_win_nothing_and_can_be_lost() -> None:
    won = judged(Policy(baseline="v1"), a_benchmark("v1", 0.3), a_benchmark("v4", 0.5))
    assert gate(won, "win any").found == "means alone, no items"
    lost = judged(Policy(baseline="v1"), GOOD, a_benchmark("v1", 0.5), a_benchmark("v4", 0.3))
    assert [one.name for one in lost.failed] == ["lose none"]


def test_by_default_few_items_say_how_many_more() -> None:
    found = gate(
        judged(Policy(baseline="v1"), a_run({"v1": right(0, 27), "v4": right(27, 27)})), "win any"
    )
    assert found.hint == "Needs 23 more items in support-test."


def test_by_default_stale_evidence_says_why() -> None:
    found = gate(judged(Policy(baseline="v1"), replace(GOOD, at=NOW - 40 * DAY)), "win any")
    assert "is 40 days old" in found.found


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=50, max_size=90),
    st.integers(0, 40),
)
def test_more_right_answers_never_fail_a_version(
    answered: list[tuple[bool, bool]], more: int
) -> None:
    theirs = [float(b) for _, b in answered]
    mine = [float(a) for a, _ in answered]
    better = [1.0 if item < more else value for item, value in enumerate(mine)]
    policy = a_policy(hold=[a_win(max_drop=0.1)])
    before, after = (judged(policy, a_run({"v1": theirs, "v4": m})) for m in (mine, better))
    assert after.passed or not before.passed


def test_a_verdict_is_json_with_stable_keys() -> None:
    data = to_json(judged(a_policy(), GOOD))
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert list(data) == ["passed", "candidate", "baseline", "gates", "warnings"]
    assert data["candidate"] == {
        "version": "v4",
        "kind": "soft",
        "digest": digest("v4"),
        "state": "alive",
    }
    assert set(data["gates"][1]) == {"name", "passed", "found", "wanted", "hint", "numbers"}
    assert data["gates"][1]["numbers"]["low"] == pytest.approx(0.522605, abs=1e-6)


def test_a_verdict_is_json_without_a_baseline() -> None:
    assert to_json(judged(a_policy(), GOOD, baseline=None))["baseline"] is None


def test_a_verdict_is_text_with_what_is_to_do() -> None:
    lines = to_text(judged(a_policy())).splitlines()
    assert lines[0] == "v4 fails 1 of 2"
    assert lines[3] == f"FAIL  {WIN}"
    assert lines[-1].startswith("      to do: Run `softprompt-serve eval run")
    assert to_text(judged(a_policy(), GOOD)).startswith("v4 passes every gate\n")


def test_a_verdict_of_no_gates_lets_nobody_pass() -> None:
    assert not Verdict(V4, V1, ()).passed


def test_the_order_of_runs_does_not_matter() -> None:
    old = replace(GOOD, id="3" * 32, at=NOW - 9 * DAY, scores=())
    assert judged(a_policy(), GOOD, old) == judged(a_policy(), old, GOOD)


def test_other_versions_in_a_run_change_nothing() -> None:
    alone = gate(judged(a_policy(), GOOD), WIN)
    among = a_run({"base": right(0, 160), "v1": right(21, 160), "v4": right(117, 160)})
    assert gate(judged(a_policy(), among), WIN) == alone
