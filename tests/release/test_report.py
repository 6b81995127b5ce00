"""What a report says, from what a server answers: values in, values out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from report_example import (
    HOUR,
    KINDS,
    NOW,
    PROMPT,
    SERVED,
    digest_of,
    sources,
    verdict,
)

from softprompt_serve.errors import BadRequest
from softprompt_serve.release.evidence import Run, Score
from softprompt_serve.release.report import compose
from softprompt_serve.release.report_data import Board, ReportData

DAY = 24 * HOUR


@pytest.fixture(scope="module")
def report() -> ReportData:
    return compose(sources())


def board(report: ReportData, dataset: str) -> Board:
    (found,) = (b for b in (*report.results, *report.anchors) if b.dataset == dataset)
    return found


def scored(run: str, values: dict[str, list[float]], **changes: Any) -> Run:
    """A run of `qa` with these values, item by item."""
    scores = tuple(
        Score(str(item), version, "default", "f1", value, value >= 0.5)
        for version, given in values.items()
        for item, value in enumerate(given)
    )
    given = {
        "id": run * 32,
        "prompt": PROMPT,
        "dataset": "qa",
        "dataset_sha256": "a" * 64,
        "digests": {version: digest_of(version) for version in values},
        "evaluators": {"f1": "2"},
        "base": SERVED,
        "at": NOW - HOUR,
        "scores": scores,
    }
    return Run(**given | changes)


def with_policy(**changes: Any) -> dict[str, Any]:
    given = sources().policy
    assert given is not None
    return dict(given) | {"policy": given["policy"] | changes}


def test_the_verdict_is_one_line_that_counts_the_failed_gates(report: ReportData) -> None:
    assert report.verdict == "May not be promoted: 1 of 10 gates failed"
    assert report.passed is False


def test_a_version_that_passes_may_be_promoted() -> None:
    judged = verdict(sources().runs)
    gates = [gate | {"passed": True} for gate in judged["gates"]]
    report = compose(sources(verdict=judged | {"gates": gates, "passed": True}))
    assert (report.passed, report.verdict) == (True, "May be promoted: all 10 gates passed")


def test_a_version_of_which_nothing_is_asked_may_be_promoted() -> None:
    judged = verdict(sources().runs) | {"asked": False, "gates": [], "passed": False}
    report = compose(sources(verdict=judged))
    assert report.verdict == "May be promoted: no gate is asked of a soft version"


def test_where_nobody_judged_the_report_says_why() -> None:
    report = compose(sources(verdict=None, unjudged="the server is too old"))
    assert (report.passed, report.verdict) == (None, "Not judged: the server is too old")


def test_failed_gates_come_first(report: ReportData) -> None:
    assert [gate.passed for gate in report.gates] == [False] + [True] * 9
    assert report.gates[0].name == "cohort multilingual by exact_match"


def test_base_every_hard_version_and_the_candidate_stand_together(report: ReportData) -> None:
    rows = board(report, "support-test").rows
    assert [row.version for row in rows] == ["v0", "v1", "v1b", "v2", "v3", "v4"]
    assert [row.role for row in rows] == ["", "baseline", "", "", "", "candidate"]
    assert all(row.items == 820 for row in rows)


def test_a_hard_version_above_the_baseline_is_marked_and_warned_of(report: ReportData) -> None:
    marked = {row.version for row in board(report, "support-test").rows if row.stronger}
    assert marked == {"v1b"}
    assert any(w.startswith("Weak baseline: hard version v1b") for w in report.warnings)


def test_a_weak_baseline_is_warned_of_where_no_verdict_does() -> None:
    judged = verdict(sources().runs) | {"warnings": []}
    warnings = compose(sources(verdict=judged)).warnings
    assert (
        "Weak baseline: the hard version v1b scores higher than the named baseline" in warnings[0]
    )


def test_a_hard_version_that_nobody_measured_is_named(report: ReportData) -> None:
    assert board(report, "mmlu_pro").unmeasured == ("v1b",)
    assert board(report, "support-test").unmeasured == ()


def test_a_prompt_without_a_base_version_is_said_to_have_none() -> None:
    base = sources()
    versions = [version for version in base.versions if version["kind"] != "base"]
    runs = [run for run in base.runs if run.dataset == "support-test"]
    runs = [
        replace(run, digests={n: d for n, d in run.digests.items() if n != "v0"}) for run in runs
    ]
    found = board(compose(sources(versions=versions, runs=runs)), "support-test")
    assert found.unmeasured == ("base (the prompt has no version of that kind)",)


def test_differences_are_the_gates_own_numbers(report: ReportData) -> None:
    gates = {gate["name"]: gate["numbers"] for gate in verdict(sources().runs)["gates"]}
    wanted = gates["win exact_match on support-test"]
    whole = board(report, "support-test").differences[0]
    assert (whole.cohort, whole.items) == (None, wanted["items"])
    found = (whole.difference, whole.low, whole.high)
    assert found == pytest.approx([wanted[n] for n in ("difference", "low", "high")], rel=1e-5)
    assert whole.limit == 0.05
    cohort = gates["cohort multilingual by exact_match"]
    (hurt,) = (d for d in board(report, "support-test").differences if d.standing == "worse")
    assert (hurt.cohort, hurt.protected, hurt.limit) == ("multilingual", True, -0.02)
    assert hurt.low == pytest.approx(cohort["low"], rel=1e-5)


def test_what_must_hold_is_compared_with_whom_the_policy_says(report: ReportData) -> None:
    assert [b.dataset for b in report.anchors] == ["mmlu_pro", "support-ood"]
    assert board(report, "mmlu_pro").against == "v0"
    assert board(report, "support-ood").against == "v1"
    assert not board(report, "mmlu_pro").paired


def test_without_a_policy_nothing_is_asked_and_nothing_compared() -> None:
    report = compose(sources(policy={"policy": None, "default": False}, verdict=None))
    assert report.baseline is None
    assert report.policy == ()
    assert board(report, "support-test").differences == ()
    assert len(board(report, "support-test").rows) == 6


def test_the_default_policy_says_that_it_is_the_default() -> None:
    report = compose(sources(policy=with_policy() | {"default": True}))
    assert report.policy[0].value == "the default, as nobody has set one"


def test_a_baseline_that_is_named_by_an_alias_is_found() -> None:
    base = sources()
    versions = [v | {"aliases": ["baseline"]} if v["version"] == "v1" else v for v in base.versions]
    report = compose(sources(versions=versions, policy=with_policy(baseline="baseline")))
    assert report.baseline == "v1"


def test_evidence_that_gates_refuse_is_shown_with_their_reason() -> None:
    old = [replace(run, at=NOW - 40 * DAY) for run in sources().runs]
    report = compose(sources(runs=old, verdict=verdict(tuple(old))))
    found = board(report, "support-test")
    assert "is 40 days old, at most 30 count" in found.objection
    assert found.differences[0].difference == pytest.approx(0.218, abs=0.001)
    assert all("40 days old" in run.objections[0] for run in report.proofs)


def test_evidence_that_counts_comes_before_newer_evidence_that_does_not() -> None:
    good = scored("1", {"v1": [0.2, 0.4] * 30, "v4": [0.8, 0.9] * 30})
    other = replace(SERVED, fingerprint="another")
    bad = scored("2", {"v1": [0.9] * 60, "v4": [0.1] * 60}, base=other, at=NOW - 60)
    found = board(compose(sources(runs=[bad, good])), "qa")
    assert {row.run for row in found.rows} == {good.id}
    assert found.differences[0].difference > 0


def test_scores_of_another_content_of_a_version_do_not_count() -> None:
    stale = scored(
        "3", {"v1": [0.1] * 60, "v4": [0.9] * 60}, digests={"v1": "0" * 64, "v4": digest_of("v4")}
    )
    report = compose(sources(runs=[stale]))
    assert [row.version for row in board(report, "qa").rows] == ["v4"]
    assert report.proofs[0].objections == (
        "v1 had another content then, so what it says of v1 is left out.",
    )


def test_a_version_of_another_content_has_no_results() -> None:
    stale = scored("4", {"v4": [0.9]}, digests={"v4": "0" * 64})
    report = compose(sources(runs=[stale]))
    assert (report.results, report.anchors, report.proofs) == ((), (), ())


def test_means_that_are_no_shares_are_not_shown_as_percentages() -> None:
    wide = scored("5", {"v1": [3.0, 4.0], "v4": [5.0, 9.0]})
    found = board(compose(sources(runs=[wide])), "qa")
    assert not found.share
    assert found.rows[-1].mean == 7.0


def test_a_single_score_has_no_interval_of_its_mean() -> None:
    one = scored("6", {"v1": [0.25], "v4": [0.5]})
    row = board(compose(sources(runs=[one])), "qa").rows[-1]
    assert (row.low, row.high, row.items) == (None, None, 1)


def test_an_item_that_the_candidate_did_not_answer_counts_against_it() -> None:
    run = scored("7", {"v1": [1.0] * 60, "v4": [1.0] * 60})
    run = replace(run, scores=tuple(s for s in run.scores if (s.version, s.item) != ("v4", "0")))
    whole = board(compose(sources(runs=[run])), "qa").differences[0]
    assert (whole.items, whole.difference) == (60, pytest.approx(-1 / 60))


def test_times_and_costs_are_those_of_one_run(report: ReportData) -> None:
    by_name = {toll.version: toll for toll in report.tolls}
    assert list(by_name) == sorted(KINDS)
    candidate, baseline = by_name["v4"], by_name["v1"]
    assert (candidate.answers, candidate.errors, candidate.virtual_tokens) == (820, 0, 20)
    assert candidate.e2e["p50"] < candidate.e2e["p95"] < candidate.e2e["p99"]
    assert candidate.seconds[-1] >= candidate.e2e["p99"]
    assert baseline.cost_ratio == 1.0
    assert candidate.cost_ratio is not None
    assert candidate.cost_ratio < 0.2
    assert report.toll_limit == 2.0


def test_answers_that_failed_are_counted_apart() -> None:
    base = sources()
    run = next(run for run in base.runs if run.dataset == "support-test")
    first, *rest = (a for a in run.answers if a.version == "v4")
    failed = replace(first, error="engine_error", e2e_seconds=99.0)
    report = compose(sources(runs=[replace(run, answers=(failed, *rest))]))
    (toll,) = report.tolls
    assert (toll.answers, toll.errors) == (819, 1)
    assert max(toll.seconds) < 99.0


def test_the_99th_percentile_is_the_gates_own(report: ReportData) -> None:
    gates = {gate["name"]: gate["numbers"] for gate in verdict(sources().runs)["gates"]}
    candidate = next(toll for toll in report.tolls if toll.version == "v4")
    assert candidate.e2e["p99"] in [
        pytest.approx(value, rel=1e-5)
        for value in gates["latency p99"].values()
        if isinstance(value, float)
    ]


def test_what_nobody_recorded_is_said_to_be_missing(report: ReportData) -> None:
    assert report.missing == ("training_code",)
    (code,) = (fact for fact in report.training if fact.name == "training code")
    assert code.value is None


def test_every_field_of_a_record_is_there_also_one_that_is_new() -> None:
    version = sources().version
    record = dict(version["record"]) | {"carbon": {"kg": 0.25}}
    report = compose(sources(version=dict(version) | {"record": record}))
    facts = {fact.name: fact.value for fact in report.training}
    assert facts["carbon"] == "kg: 0.25"
    assert facts["optimizer: learning_rate"] == "0.02"


@pytest.mark.parametrize(
    ("changes", "fact", "told"),
    [
        ({}, "tensor [virtual tokens, hidden size]", "[20, 576] float32"),
        (
            {"kind": "prefix", "hidden_size": 0, "dtype": "float16"},
            "keys and values",
            "20 virtual tokens of every layer, float16",
        ),
    ],
)
def test_what_was_learned_is_told_by_its_kind(
    changes: dict[str, Any], fact: str, told: str
) -> None:
    report = compose(sources(version=dict(sources().version) | changes))
    assert {one.name: one.value for one in report.what}[fact] == told


def test_a_training_curve_has_a_line_for_each_value(report: ReportData) -> None:
    assert {curve.name: len(curve.points) for curve in report.curves} == {
        "loss": 49,
        "eval_loss": 13,
    }


def test_lineage_goes_back_as_far_as_the_records_say(report: ReportData) -> None:
    assert [step.name for step in report.lineage] == ["support@v4", "support@v3", "support@v2"]
    assert report.lineage[2].digest == digest_of("v2")


def lineage_of(**trained_from: str) -> list[tuple[str, str]]:
    base = sources()
    versions = [
        v | {"record": dict(v["record"]) | {"trained_from": trained_from.get(v["version"])}}
        for v in base.versions
    ]
    report = compose(sources(version=versions[-1], versions=versions))
    return [(step.name, step.note) for step in report.lineage]


def test_lineage_by_digest_finds_the_version() -> None:
    assert [name for name, _ in lineage_of(v4=digest_of("v2"))] == ["support@v4", "support@v2"]


def test_lineage_from_elsewhere_ends_there() -> None:
    assert lineage_of(v4="other@v9")[-1] == ("other@v9", "not among this prompt's versions")


def test_lineage_in_a_circle_ends() -> None:
    found = lineage_of(v4="support@v3", v3="support@v4")
    assert [name for name, _ in found] == ["support@v4", "support@v3", "support@v4"]
    assert "circle" in found[-1][1]


def test_forced_promotions_are_marked_and_warned_of(report: ReportData) -> None:
    (forced,) = (event for event in report.history if event.forced)
    assert (forced.actor, forced.subject) == ("linus", "production")
    assert any("forced past the gates" in w and "INC-2117" in w for w in report.warnings)


def test_history_leaves_out_what_concerns_other_versions_alone() -> None:
    entry = dict(sources().audit[2]) | {"subject": "v2"}
    assert compose(sources(audit=[entry])).history == ()


def test_a_long_history_says_how_much_of_it_is_not_listed() -> None:
    entry = sources().audit[1]
    report = compose(sources(audit=[entry] * 75))
    assert (len(report.history), report.older) == (60, 15)


def test_the_same_sources_give_the_same_report(report: ReportData) -> None:
    assert compose(sources()) == report


def test_a_policy_that_is_unknown_here_is_an_error() -> None:
    with pytest.raises(BadRequest, match="karma") as refused:
        compose(sources(policy=with_policy(karma=1)))
    assert refused.value.code == "invalid_policy"
