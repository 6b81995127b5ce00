"""Which runs a report reads, from a list of many."""

from __future__ import annotations

from typing import Any

from softprompt_serve.release.report_pick import MOST_ALIKE, runs_needed

DIGESTS = {"v1": "1" * 64, "v2": "2" * 64, "v4": "4" * 64}
SERVED = "weights"


def head(name: str, *versions: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": name,
        "dataset": "tickets",
        "dataset_sha256": "a" * 64,
        "base": {"fingerprint": SERVED},
        "digests": {version: DIGESTS[version] for version in versions},
        "evaluators": {"exact_match": "1"},
    } | changes


def needed(*heads: dict[str, Any], **changes: Any) -> list[str]:
    given: dict[str, Any] = {"verdict": None, "fingerprint": SERVED} | changes
    return runs_needed(heads, "v4", DIGESTS, **given)


def test_the_newest_of_many_alike_are_enough() -> None:
    heads = [head(str(n), "v1", "v4") for n in range(10)]
    assert needed(*heads) == [str(n) for n in range(MOST_ALIKE)]


def test_each_data_set_and_evaluator_has_its_own() -> None:
    alike = [head(str(n), "v4") for n in range(5)]
    other = head("ood", "v4", dataset="ood", dataset_sha256="b" * 64)
    judged = head("judged", "v4", evaluators={"judge": "1"})
    assert {"ood", "judged"} <= set(needed(*alike, other, judged))


def test_runs_of_another_content_of_the_candidate_are_left_out() -> None:
    stale = head("stale", digests={"v4": "0" * 64})
    assert needed(stale, head("fresh", "v4")) == ["fresh"]


def test_another_version_is_looked_for_on_the_same_items_alone() -> None:
    same = head("same", "v2")
    elsewhere = head("elsewhere", "v1", dataset_sha256="b" * 64)
    assert needed(head("mine", "v4"), elsewhere, same) == ["mine", "same"]


def test_what_the_verdict_rests_on_is_always_read() -> None:
    heads = [head(str(n), "v1", "v4") for n in range(10)]
    verdict = {"gates": [{"numbers": {"run": "9"}}, {"numbers": {}}]}
    assert needed(*heads, verdict=verdict)[-1] == "9"


def test_runs_on_the_served_base_model_come_before_newer_ones_on_others() -> None:
    others = [head(str(n), "v4", base={"fingerprint": "another"}) for n in range(5)]
    assert "good" in needed(*others, head("good", "v4"))


def test_a_run_of_nobody_here_is_not_read() -> None:
    assert needed(head("theirs", "v1")) == []
