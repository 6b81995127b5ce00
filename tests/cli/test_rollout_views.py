"""A rollout's tables, as a person reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cli.rollout_answers import FINDINGS, GATES, NONE, SPEC, ended, replica, rollout
from rich.console import Console

from softprompt_serve.cli import rollout_views as views

if TYPE_CHECKING:
    from rich.console import RenderableType


def lines(view: RenderableType, width: int = 160) -> list[str]:
    console = Console(width=width, markup=False, emoji=False, highlight=False, color_system=None)
    with console.capture() as capture:
        console.print(view)
    return [" ".join(line.split()) for line in capture.get().splitlines()]


def line_of(view: RenderableType, begins: str) -> str:
    return next(line for line in lines(view) if line.startswith(begins))


def test_the_first_line_says_where_the_rollout_stands_and_why() -> None:
    first = lines(views.rollout(rollout()))[0]
    assert first == "support progressing (step 2 of 3): v2 gets 10 of 100: step 2 of 3."


def test_each_arm_has_its_weight_share_and_what_it_is() -> None:
    shown = views.rollout(rollout())
    assert line_of(shown, "v1 ").startswith("v1 90 90 %")
    assert line_of(shown, "v1 ").endswith("production")
    assert line_of(shown, "v2 ").endswith("candidate, written as canary")


def test_one_in_a_million_is_not_rounded_to_nothing() -> None:
    shown = views.rollout(rollout(weights={"v1": 999_999, "v2": 1}))
    assert "0.0001 %" in line_of(shown, "v2 ")
    assert "100 %" in line_of(shown, "v1 ")


def test_each_rule_says_when_and_what_then() -> None:
    shown = views.rollout(rollout())
    assert line_of(shown, "lawyers") == (
        "lawyers cohort regulated or multilingual; route planner v1"
    )
    assert line_of(shown, "half") == (
        "half x-tier gold or silver; tools offered; 10 to 500 visible tokens v1=50 v2=50"
    )


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ({"min": 5, "max": None}, "at least 5 visible tokens"),
        ({"min": None, "max": 5}, "at most 5 visible tokens"),
    ],
)
def test_a_range_without_an_end_is_said_so(tokens: dict[str, int | None], expected: str) -> None:
    rule = {"name": "long", "match": {"visible_tokens": tokens}, "version": "v1"}
    shown = views.rollout(rollout(spec=SPEC | {"rules": [rule]}))
    assert line_of(shown, "long") == f"long {expected} v1"


def test_a_rule_can_want_no_tools() -> None:
    rule = {"name": "plain", "match": {"tools": False}, "version": "v1"}
    shown = views.rollout(rollout(spec=SPEC | {"rules": [rule]}))
    assert line_of(shown, "plain") == "plain no tools offered v1"


def test_the_shadow_is_shown_with_its_limits() -> None:
    shown = views.rollout(rollout())
    assert line_of(shown, "shadow") == "shadow v3 gets a copy of 10 % (generate)"
    assert line_of(shown, "its limits") == "its limits 2 at once, 500 tokens/s, 60 s each"


def test_the_current_step_shows_its_progress() -> None:
    shown = views.rollout(rollout())
    assert line_of(shown, "1 done").startswith("1 done 1 100")
    assert line_of(shown, "2 now").startswith("2 now 10 57 of 100")
    assert "12 of 60" in line_of(shown, "2 now")
    assert line_of(shown, "3 50") == "3 50 1,000 0"


def test_all_steps_are_done_after_the_promotion() -> None:
    shown = lines(views.rollout(ended("promoted")))
    assert [line.split()[1] for line in shown if line[:1] in "123" and line] == ["done"] * 3


GATED = SPEC | {"gates": GATES}


def test_each_gate_shows_both_arms_with_intervals_and_the_evidence() -> None:
    shown = views.rollout(rollout(spec=GATED, findings=FINDINGS, findings_seconds_ago=2.2))
    assert line_of(shown, "ttft") == (
        "ttft p99 max_ratio 1.2 all 0.431 s (0.21 s to ?; 57) 0.2 s (0.18 s to 0.25 s; 513) "
        "3.22 of 80 holds"
    )
    assert line_of(shown, "error_rate") == (
        "error_rate max 0.05 regulated 12.5 % (8.07 % to 17 %; 1,200) - more than 10,000 of 40 broken"
    )
    assert line_of(shown, "A gate is broken").endswith("2 s ago.")


def test_a_gate_on_shadow_answers_has_no_baseline() -> None:
    gate = FINDINGS["gates"][0] | {"baseline": None}
    shown = views.rollout(rollout(spec=GATED, findings=FINDINGS | {"gates": [gate]}))
    assert line_of(shown, "ttft").endswith("57) - 3.22 of 80 holds")


def test_what_the_controller_waits_for_is_shown() -> None:
    shown = views.rollout(rollout(findings=FINDINGS))
    assert line_of(shown, "controller") == "controller Step 2 of 3 needs 43 more answers."


def test_what_keeps_the_controller_from_acting_is_shown() -> None:
    shown = views.rollout(rollout(findings=FINDINGS | {"trouble": "v2 is unloaded."}))
    assert line_of(shown, "trouble") == "trouble v2 is unloaded."


def test_what_the_controller_waited_for_is_not_shown_after_the_end() -> None:
    shown = lines(views.rollout(ended("promoted") | {"findings": FINDINGS}))
    assert not any(line.startswith("controller") for line in shown)


def test_gates_without_numbers_yet_are_listed() -> None:
    shown = views.rollout(rollout(spec=GATED))
    assert line_of(shown, "gates") == (
        "gates ttft p99 max_ratio 1.2, error_rate max 0.05: no numbers yet"
    )


def test_each_replica_shows_what_it_serves() -> None:
    shown = views.rollout(rollout(replica("one"), replica("two", 11, "v1")))
    assert line_of(shown, "one").endswith("0.3 s ago yes")
    assert line_of(shown, "two") == ("two id-of-two 11 v1 2026-11-23T21:00:00.120Z 0.3 s ago no")


def test_what_is_not_applied_says_who_is_behind_and_how() -> None:
    shown = views.rollout(rollout(replica("one", 12, "v1"), replica("two", 11)))
    assert line_of(shown, "applied no") == (
        "applied no: one does not hold v2, v3 yet; two serves generation 11 of 12"
    )


def test_nobody_is_behind_where_all_are_there() -> None:
    assert views.behind(rollout(replica("one"))) == []


def test_without_a_replica_nothing_is_applied() -> None:
    assert views.behind(rollout()) == ["no live replica has reported yet"]


def test_what_may_be_out_of_date_says_so_instead_of_who_is_behind() -> None:
    assert views.behind(rollout(note="The catalogue is gone.")) == ["The catalogue is gone."]


def test_a_brief_view_leaves_out_what_does_not_change() -> None:
    shown = lines(views.rollout(rollout(replica("one")), brief=True))
    assert not any(line.startswith(("lawyers", "shadow")) for line in shown)
    assert any(line.startswith("2 now") for line in shown)


def test_a_prompt_without_a_rollout_shows_production_alone() -> None:
    shown = lines(views.rollout(NONE))
    assert shown[0] == "support has no rollout"
    assert "production v1" in shown
    assert not any(line.startswith(("rule", "step", "shadow", "replica")) for line in shown)


def test_a_prompt_without_production_has_no_arms() -> None:
    shown = views.rollout(NONE | {"weights": {}, "production": None})
    assert "production -" in lines(shown)


def test_one_line_says_it_all_for_a_log() -> None:
    assert views.line(rollout(replica("one", 11))) == (
        "generation 12, progressing (step 2 of 3), v1=90 v2=10, 57/100 answers, 12/60 s, "
        "not applied: one serves generation 11 of 12"
    )
    assert views.line(ended("rolled_back", replica("one"))) == (
        "generation 12, rolled back, v1=100, applied"
    )


def test_the_table_fits_eighty_columns() -> None:
    shown = rollout(replica("one"), replica("two", 11, "v1"))
    assert max(len(line) for line in lines(views.rollout(shown), 80)) <= 80


def test_the_history_has_a_line_for_each_state() -> None:
    entry = {
        "generation": 2,
        "action": "weights",
        "at": "2026-11-23T21:00:00.120Z",
        "actor": None,
        "production": "v1",
        "settled": False,
        "weights": {"v1": 90, "v2": 10},
        "spec": SPEC,
    }
    assert lines(views.history({"data": [entry]}))[1] == (
        "2 2026-11-23T21:00:00.120Z - weights v1=90 v2=10 v1 no"
    )


EXPLAINED = {
    "version": "v2",
    "digest": "ab" * 32,
    "kind": "soft",
    "reason": "rule",
    "rule": "lawyers",
    "arm": "v2",
    "cohort": "regulated",
    "route": "default",
    "generation": 12,
    "passed_over": "v3",
    "resident": True,
    "refusal": None,
    "steps": ["pinned: no", "rule `lawyers`: yes"],
}


def test_an_explanation_names_the_version_and_numbers_the_steps() -> None:
    shown = lines(views.explained(EXPLAINED))
    assert shown[0] == "answered by v2 (soft, abababababab)"
    assert "because of rule lawyers" in shown
    assert "passed over v3 (not resident)" in shown
    assert shown[-2:] == ["1. pinned: no", "2. rule `lawyers`: yes"]


def test_an_explanation_without_a_rule_gives_the_reason() -> None:
    shown = lines(views.explained(EXPLAINED | {"rule": None, "reason": "split"}))
    assert "because of split" in shown


def test_an_explanation_of_a_refusal_has_its_error() -> None:
    nothing = dict.fromkeys(("version", "digest", "kind", "reason", "rule", "arm", "passed_over"))
    refusal = {"status": 503, "code": "version_unloaded", "message": "`support@v2` is unloaded."}
    steps = ["pinned: `v2`", "refused: v2 is unloaded"]
    found = EXPLAINED | nothing | {"resident": False, "refusal": refusal, "steps": steps}
    shown = lines(views.explained(found))
    assert shown[0] == "refused 503 version_unloaded: `support@v2` is unloaded."
    assert "cohort regulated" in shown
    assert not any("resident" in line or "arm" in line for line in shown)
    assert shown[-1] == "2. refused: v2 is unloaded"
