"""Runs of evaluations in the catalogue, on both databases."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from runs import AT, DIGESTS, EVALUATOR, RUN_ID, TEXTS, TOTAL, TWO, published, run_id, scored

from softprompt_serve.artifact import Content
from softprompt_serve.errors import BadRequest, Conflict, NotFound
from softprompt_serve.registry.catalog import Catalogue
from softprompt_serve.registry.evidence import Evidence, Result
from softprompt_serve.registry.evidence_rows import canonical
from softprompt_serve.release.evidence import Answer, Base, Score


def row(found: list[Result], version: str, cohort: str | None = "default") -> Result:
    (one,) = [r for r in found if (r.version, r.cohort) == (version, cohort)]
    return one


def test_a_run_is_read_as_it_was_added(evidence: Evidence) -> None:
    run = scored(TWO)
    assert evidence.add(run)
    assert evidence.run(RUN_ID) == canonical(run)


def test_what_nobody_knows_stays_unknown(evidence: Evidence) -> None:
    bare = replace(
        scored(TWO, answers=(Answer("item-0", "v1", "default"),)), base=Base(), actor=None
    )
    evidence.add(bare)
    assert evidence.run(RUN_ID) == canonical(bare)


def test_parts_are_read_by_item_version_and_evaluator_whatever_order_they_came_in(
    evidence: Evidence,
) -> None:
    names = ("item-10", "item-2", "Item-3", "ähnlich", "_", "É")
    scores = [Score(name, v, "default", EVALUATOR, 1.0, True) for name in names for v in TWO]
    evidence.add(scored(TWO, scores=tuple(reversed(scores)), answers=()))
    kept = evidence.run(RUN_ID).scores
    assert [s.item for s in kept[::2]] == sorted(names)
    assert [s.version for s in kept[:2]] == ["v1", "v2"]


def test_a_run_that_nobody_added_is_none(evidence: Evidence) -> None:
    assert evidence.run(RUN_ID) is None
    assert evidence.runs("support") == []
    assert evidence.summary("support") == []


def test_the_same_run_again_is_not_new_and_no_change(
    evidence: Evidence, catalogue: Catalogue
) -> None:
    run = scored(TWO)
    evidence.add(run)
    before = catalogue.revision()
    assert not evidence.add(replace(run, scores=tuple(reversed(run.scores))))
    assert catalogue.revision() == before


def test_another_run_under_a_known_id_is_a_conflict_and_changes_nothing(
    evidence: Evidence, catalogue: Catalogue
) -> None:
    run = scored(TWO)
    evidence.add(run)
    before = catalogue.revision()
    for other in (
        replace(run, dataset="another"),
        replace(run, scores=run.scores[:-1]),
        replace(run, sampling={"temperature": 1.0}),
    ):
        with pytest.raises(Conflict) as error:
            evidence.add(other)
        assert (error.value.code, error.value.param) == ("run_exists", "id")
    assert evidence.run(RUN_ID) == canonical(run)
    assert catalogue.revision() == before


def test_a_run_of_a_version_that_is_not_there_is_refused(evidence: Evidence) -> None:
    with pytest.raises(NotFound) as error:
        evidence.add(scored({**TWO, "v9": "9" * 64}))
    assert error.value.code == "version_not_found"
    with pytest.raises(NotFound) as error:
        evidence.add(scored(TWO, prompt="sales"))
    assert error.value.code == "prompt_not_found"
    assert evidence.run(RUN_ID) is None


def test_a_run_of_other_content_is_refused_whole(evidence: Evidence, catalogue: Catalogue) -> None:
    before = catalogue.revision()
    with pytest.raises(Conflict) as error:
        evidence.add(scored({**TWO, "v2": "9" * 64}))
    assert (error.value.code, error.value.param) == ("digest_mismatch", "digests.v2")
    assert evidence.run(RUN_ID) is None
    assert evidence.summary() == []
    assert catalogue.revision() == before


def test_the_plain_base_model_is_evaluated_without_a_version(evidence: Evidence) -> None:
    plain = Content("base").digest
    assert evidence.add(scored({**TWO, "base": plain}))
    with pytest.raises(Conflict) as error:
        evidence.add(scored({**TWO, "base": "9" * 64}, id=run_id(2)))
    assert (error.value.code, error.value.param) == ("digest_mismatch", "digests.base")


def test_a_version_that_is_called_base_is_what_is_meant(
    evidence: Evidence, catalogue: Catalogue
) -> None:
    catalogue.add_version("support", "base", TEXTS["v1"], {})
    with pytest.raises(Conflict):
        evidence.add(scored({"base": Content("base").digest}))
    assert evidence.add(scored({"base": DIGESTS["v1"]}))


def test_a_run_of_the_future_is_refused_but_a_clock_may_be_a_little_ahead(
    evidence: Evidence,
) -> None:
    with pytest.raises(BadRequest) as error:
        evidence.add(scored(TWO, at=time.time() + 900))
    assert (error.value.code, error.value.param) == ("invalid_run", "at")
    assert evidence.add(scored(TWO, at=time.time() + 120))


def test_evidence_outlives_its_version(evidence: Evidence, catalogue: Catalogue) -> None:
    run = scored(TWO)
    evidence.add(run)
    catalogue.remove_version("support", "v2")
    assert evidence.run(RUN_ID) == canonical(run)
    assert not evidence.add(run)
    assert row(evidence.summary("support"), "v2").run == RUN_ID


def test_adding_is_one_change_with_its_audit_row(evidence: Evidence, catalogue: Catalogue) -> None:
    before = catalogue.snapshot()
    evidence.add(scored(TWO), actor="ci")
    assert catalogue.revision() == before.revision + 1
    (entry,) = catalogue.audit(limit=1)
    assert (entry.action, entry.actor, entry.prompt) == ("evaluation.add", "ci", "support")
    assert entry.subject == RUN_ID
    assert dict(entry.detail) == {
        "dataset": "tickets",
        "versions": ["v1", "v2"],
        "items": 4,
        "source": "run",
    }
    after = catalogue.snapshot(before)
    assert after.prompts["support"].versions.keys() == DIGESTS.keys()


def test_who_ran_it_is_the_actor_where_nobody_else_is_named(
    evidence: Evidence, catalogue: Catalogue
) -> None:
    evidence.add(scored(TWO))
    assert catalogue.audit(limit=1)[0].actor == "ada"


def test_runs_are_found_newest_first_by_data_set_and_version(evidence: Evidence) -> None:
    evidence.add(scored(TWO, id=run_id(1), at=AT))
    evidence.add(scored(DIGESTS, id=run_id(2), at=AT + 2))
    evidence.add(published(TWO, id=run_id(3), at=AT + 1))
    heads = evidence.heads("support")
    assert [head.run.id for head in heads] == [run_id(2), run_id(3), run_id(1)]
    assert [head.items for head in heads] == [4, 0, 4]
    assert [(head.scores, head.answers, head.totals) for head in heads] == [
        (16, 16, 0),
        (0, 0, 2),
        (8, 8, 0),
    ]
    assert [run.id for run in evidence.runs("support", dataset="tickets")] == [run_id(2), run_id(1)]
    assert [run.id for run in evidence.runs("support", version="v3")] == [run_id(2)]
    assert [h.run.id for h in evidence.heads("support", dataset="mmlu_pro", version="v3")] == []
    assert [run.id for run in evidence.runs("support", limit=1)] == [run_id(2)]
    assert evidence.runs("sales") == []
    assert evidence.runs("support", limit=1)[0].scores


def test_a_summary_counts_by_version_and_cohort(evidence: Evidence) -> None:
    verdicts = {"v1": [True, True, False, True, False, False], "v2": [True] * 6}
    evidence.add(scored(TWO, verdicts))
    found = evidence.summary("support")
    first = row(found, "v1")
    assert (first.items, first.passed, first.failed) == (3, 1, 2)
    assert first.fail_rate == pytest.approx(2 / 3)
    assert first.mean == pytest.approx(1 / 3)
    assert (first.dataset, first.evaluator, first.run, first.at) == (
        "tickets",
        EVALUATOR,
        RUN_ID,
        AT,
    )
    assert row(found, "v1", "regulated").fail_rate == pytest.approx(1 / 3)
    assert row(found, "v2").fail_rate == 0.0
    assert len(found) == 4


def test_a_summary_has_the_newest_run_of_each_data_set_and_evaluator(evidence: Evidence) -> None:
    evidence.add(scored(TWO, id=run_id(1), at=AT, evaluators=(EVALUATOR, "f1")))
    evidence.add(scored({"v2": TWO["v2"]}, {"v2": [False] * 2}, id=run_id(2), at=AT + 1))
    evidence.add(scored(TWO, {"v1": [False], "v2": [False]}, id=run_id(3), at=AT - 1))
    evidence.add(scored(TWO, id=run_id(4), at=AT - 1, dataset="held_out"))
    found = {
        (r.version, r.dataset, r.evaluator): r.run
        for r in evidence.summary("support")
        if r.cohort == "default"
    }
    assert found == {
        ("v1", "tickets", EVALUATOR): run_id(1),
        ("v1", "tickets", "f1"): run_id(1),
        ("v2", "tickets", EVALUATOR): run_id(2),
        ("v2", "tickets", "f1"): run_id(1),
        ("v1", "held_out", EVALUATOR): run_id(4),
        ("v2", "held_out", EVALUATOR): run_id(4),
    }


def test_a_mean_that_was_published_has_no_verdicts_and_no_cohort(evidence: Evidence) -> None:
    evidence.add(published(TWO, mean=0.25))
    found = row(evidence.summary("support"), "v1", None)
    assert (found.mean, found.stderr, found.items) == (0.25, 0.01, 1000)
    assert (found.evaluator, found.passed, found.failed, found.fail_rate) == (
        TOTAL,
        None,
        None,
        None,
    )


def test_items_without_an_answer_are_counted_apart(evidence: Evidence) -> None:
    run = scored(TWO)
    lost = [a for a in run.answers if a.version == "v2" and a.item in {"item-1", "item-3"}]
    answers = tuple(
        replace(a, error="engine_error", sha256=None) if a in lost else a for a in run.answers
    )
    scores = tuple(
        s for s in run.scores if (s.item, s.version) not in {(a.item, a.version) for a in lost}
    )
    evidence.add(replace(run, answers=answers, scores=scores))
    found = evidence.summary("support")
    assert (row(found, "v2").items, row(found, "v2").unanswered) == (2, 0)
    nothing = row(found, "v2", "regulated")
    assert (nothing.items, nothing.unanswered, nothing.mean, nothing.fail_rate) == (
        0,
        2,
        None,
        None,
    )


def test_a_summary_of_all_prompts_has_each(evidence: Evidence, catalogue: Catalogue) -> None:
    catalogue.add_version("sales", "v1", TEXTS["v1"], {})
    evidence.add(scored(TWO))
    evidence.add(scored({"v1": DIGESTS["v1"]}, id=run_id(2), prompt="sales"))
    assert {r.prompt for r in evidence.summary()} == {"sales", "support"}
    assert {r.prompt for r in evidence.summary("sales")} == {"sales"}


def test_many_who_add_one_run_at_once_add_it_once(evidence: Evidence, catalogue: Catalogue) -> None:
    run = scored(TWO)
    before = catalogue.revision()
    with ThreadPoolExecutor(6) as pool:
        new = list(pool.map(lambda _: evidence.add(run), range(6)))
    assert sorted(new) == [False] * 5 + [True]
    assert catalogue.revision() == before + 1


def test_a_large_run_goes_in_within_seconds_and_comes_out_whole(evidence: Evidence) -> None:
    passed = {version: [n % 5 != 0 for n in range(5000)] for version in DIGESTS}
    run = scored(DIGESTS, passed, evaluators=(EVALUATOR, "f1", "judge"))
    assert len(run.scores) == 60_000
    began = time.monotonic()
    evidence.add(run)
    assert time.monotonic() - began < 20  # seconds where the machine is free
    assert evidence.run(RUN_ID) == canonical(run)


def test_a_judgement_knows_of_all_runs_and_reads_those_that_can_matter(evidence: Evidence) -> None:
    for number in range(3):
        evidence.add(scored(TWO, id=run_id(number), at=AT + number))
    found = evidence.weighed("support", {"v2"}, since=AT)
    assert [run.id for run in found] == [run_id(2), run_id(1), run_id(0)]
    assert [len(run.scores) for run in found] == [8, 0, 0]
    assert found[1].digests == TWO
