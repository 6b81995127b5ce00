"""Which stored run a rerun repeats, and whether a version is still needed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from release.evidence_of import SERVED, a_policy, a_run, a_win, digest, right

from softprompt_serve.release.evidence import Base, Run
from softprompt_serve.release.regression import Question, reference_of, same_base
from softprompt_serve.release.retirement import leads_of, unneeded

BEFORE = replace(SERVED, fingerprint="0" * 64)
EARLIER = replace(SERVED, fingerprint="1" * 64)


def question(**changes: Any) -> Question:
    given = {"dataset_sha256": "d" * 64, "digests": {"v1": digest("v1"), "v4": digest("v4")}}
    return Question(**(given | changes))


def on(*bases: Base) -> list[Run]:
    """Runs on these base models, newest first; each one's id is its place."""
    return [a_run(id=str(at), base=base) for at, base in enumerate(bases)]


def chosen(*bases: Base) -> str | None:
    found = reference_of(on(*bases), question(), SERVED)
    return None if found is None else found.id


def test_the_reference_is_the_last_run_before_the_base_model_changed() -> None:
    assert chosen(SERVED, SERVED, BEFORE, BEFORE, EARLIER) == "2"
    assert chosen(BEFORE, BEFORE, EARLIER) == "0"


def test_on_one_base_model_it_is_the_first_so_that_small_losses_add_up() -> None:
    assert chosen(SERVED, SERVED, SERVED) == "2"


def test_without_a_stored_run_there_is_none() -> None:
    assert chosen() is None


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({}, None),
        ({"source": "lm-eval"}, "source"),
        ({"dataset_sha256": "e" * 64}, "dataset_sha256"),
        ({"digests": {"v1": digest("v1")}}, "digests"),
        ({"digests": {"v1": digest("v1"), "v4": digest("v2")}}, "digests"),
        ({"evaluators": {"exact_match": "2"}}, "evaluators"),
        ({"sampling": {"seed": 1}}, "sampling"),
        ({"evaluators": {"exact_match": "1", "f1": "1"}}, None),
    ],
)
def test_a_run_that_asked_something_else_is_no_reference(
    changes: dict[str, Any], differs: str | None
) -> None:
    asked = question(evaluators={"exact_match": "1"}, sampling={})
    assert asked.differs(a_run(**changes)) == differs


def test_any_evaluator_and_sampling_will_do_where_none_is_named() -> None:
    assert question().differs(a_run(evaluators={"f1": "1"}, sampling={"seed": 1})) is None


def test_a_base_model_is_known_by_its_fingerprints() -> None:
    assert same_base(SERVED, replace(SERVED, name="elsewhere", revision="main"))
    for name in ("fingerprint", "tokenizer_fingerprint", "chat_template_sha256"):
        assert not same_base(SERVED, replace(SERVED, **{name: "0" * 64}))


def test_a_base_model_without_fingerprints_is_known_by_its_name() -> None:
    unknown = Base("tiny", "main")
    assert same_base(unknown, Base("tiny", "main"))
    assert not same_base(unknown, Base("tiny", "next"))


def test_a_lead_that_has_closed_is_one_that_is_certainly_small() -> None:
    run = a_run({"v1": right(1500, 2000), "v4": right(1490, 2000)})
    (lead,) = leads_of(a_policy(), [run], "v4", "v1")
    assert lead.found.difference == pytest.approx(-0.005)
    assert lead.closed
    assert unneeded([lead])


def test_few_items_show_no_lead_to_have_closed() -> None:
    run = a_run({"v1": right(15, 20), "v4": right(15, 20)})
    (lead,) = leads_of(a_policy(), [run], "v4", "v1")
    assert not lead.closed


def test_one_lead_that_is_left_is_enough_to_stay() -> None:
    same = a_run({"v1": right(1500, 2000), "v4": right(1490, 2000)})
    ahead = a_run({"v1": right(100, 200), "v4": right(150, 200)}, dataset="other", id="1" * 32)
    leads = leads_of(a_policy(win=[]), [same, ahead], "v4", "v1")
    assert [lead.closed for lead in leads] == [True, False]
    assert not unneeded(leads)


def test_only_what_a_policy_asks_to_be_won_keeps_a_version() -> None:
    same = a_run({"v1": right(1500, 2000), "v4": right(1490, 2000)})
    ahead = a_run({"v1": right(100, 200), "v4": right(150, 200)}, dataset="other", id="1" * 32)
    policy = a_policy(win=[a_win()])
    assert unneeded(leads_of(policy, [same, ahead], "v4", "v1"))


def test_a_policy_may_keep_a_version_for_ever() -> None:
    run = a_run({"v1": right(1500, 2000), "v4": right(1490, 2000)})
    policy = a_policy(watch={"retire_below": None})
    assert leads_of(policy, [run], "v4", "v1") == ()
    assert not unneeded(())


def test_data_sets_that_do_not_count_keep_nobody_and_retire_nobody() -> None:
    run = a_run({"v1": right(1500, 2000), "v4": right(1490, 2000)})
    assert leads_of(a_policy(watch={"datasets": ["other"]}), [run], "v4", "v1") == ()
