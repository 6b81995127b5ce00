"""Runs of evaluations that go: on request, or since there are newer ones, on both databases."""

from __future__ import annotations

import time
from typing import Any

import pytest
from runs import AT, EVALUATOR, RUN_ID, TEXTS, TWO, published, run_id, scored
from sqlalchemy import func, select

from softprompt_serve.errors import NotFound
from softprompt_serve.registry.catalog import Catalogue
from softprompt_serve.registry.evidence import Evidence
from softprompt_serve.registry.evidence_removal import Removal, Retention, spare
from softprompt_serve.registry.evidence_rows import Head
from softprompt_serve.registry.evidence_tables import (
    EvalAnswerRow,
    ResultRow,
    RunRow,
    RunVersionRow,
    ScoreRow,
    TotalRow,
)

TABLES = (RunRow, RunVersionRow, ScoreRow, EvalAnswerRow, TotalRow, ResultRow)
DAY = 86_400.0


@pytest.fixture
def removal(catalogue: Catalogue) -> Removal:
    return Removal(catalogue.database)


def rows_of(catalogue: Catalogue, run: str) -> list[int]:
    with catalogue.database.reading() as session:
        keys = [table.id if table is RunRow else table.run for table in TABLES]
        return [session.scalar(select(func.count()).where(key == run)) or 0 for key in keys]


def kept(evidence: Evidence, prompt: str = "support") -> list[str]:
    return [head.run.id for head in evidence.heads(prompt)]


def test_a_run_goes_with_all_its_rows_and_no_other_s(
    catalogue: Catalogue, evidence: Evidence, removal: Removal
) -> None:
    evidence.add(scored(TWO))
    evidence.add(published(TWO, id=run_id(1)))
    other = rows_of(catalogue, run_id(1))
    assert any(rows_of(catalogue, RUN_ID))
    assert removal.remove("support", RUN_ID, actor="ada").run.id == RUN_ID
    assert rows_of(catalogue, RUN_ID) == [0] * len(TABLES)
    assert rows_of(catalogue, run_id(1)) == other


def test_a_removal_is_one_change_in_the_audit(
    catalogue: Catalogue, evidence: Evidence, removal: Removal
) -> None:
    evidence.add(scored(TWO))
    before = catalogue.revision()
    removal.remove("support", RUN_ID, actor="ada")
    assert catalogue.revision() == before + 1
    entry = catalogue.audit(limit=1)[0]
    assert (entry.action, entry.actor, entry.subject) == ("evaluation.remove", "ada", RUN_ID)
    assert entry.detail == {
        "dataset": "tickets",
        "versions": ["v1", "v2"],
        "items": 4,
        "source": "run",
        "why": "on request",
    }


@pytest.mark.parametrize(("prompt", "run"), [("support", run_id(7)), ("sales", RUN_ID)])
def test_a_run_that_the_prompt_does_not_have_is_none_to_remove(
    catalogue: Catalogue, evidence: Evidence, removal: Removal, prompt: str, run: str
) -> None:
    evidence.add(scored(TWO))
    before = catalogue.revision()
    with pytest.raises(NotFound) as caught:
        removal.remove(prompt, run)
    assert caught.value.code == "run_not_found"
    assert (catalogue.revision(), kept(evidence)) == (before, [RUN_ID])


def test_a_run_that_was_removed_may_come_again(evidence: Evidence, removal: Removal) -> None:
    evidence.add(scored(TWO))
    removal.remove("support", RUN_ID)
    assert evidence.add(scored(TWO))


def test_what_was_added_or_removed_shows_in_the_mark(evidence: Evidence, removal: Removal) -> None:
    marks = [evidence.mark()]
    evidence.add(scored(TWO))
    marks.append(evidence.mark())
    evidence.add(scored(TWO, id=run_id(1), at=AT - 1))
    marks.append(evidence.mark())
    removal.remove("support", RUN_ID)
    marks.append(evidence.mark())
    evidence.add(scored(TWO, id=run_id(2), at=AT - 2))
    marks.append(evidence.mark())
    assert len(set(marks)) == len(marks)
    assert evidence.mark() == marks[-1]


def test_of_a_prompt_the_newest_runs_are_kept(
    catalogue: Catalogue, evidence: Evidence, removal: Removal
) -> None:
    for number in range(30):
        evidence.add(scored(TWO, id=run_id(number), at=AT + number))
    catalogue.add_version("sales", "v1", TEXTS["v1"], {})
    evidence.add(scored({"v1": TWO["v1"]}, id=run_id(99), prompt="sales"))
    assert removal.tidy(Retention(runs=4)) == 26
    assert kept(evidence) == [run_id(number) for number in (29, 28, 27, 26)]
    assert kept(evidence, "sales") == [run_id(99)]
    assert removal.tidy(Retention(runs=4)) == 0


def test_what_is_older_than_is_kept_goes_and_the_audit_says_why(
    catalogue: Catalogue, evidence: Evidence, removal: Removal
) -> None:
    now = time.time()
    for number, days in enumerate((1, 9, 11)):
        evidence.add(scored(TWO, id=run_id(number), at=now - days * DAY))
    assert removal.tidy(Retention(runs=100, days=10.0)) == 1
    assert kept(evidence) == [run_id(0), run_id(1)]
    entry = catalogue.audit(limit=1)[0]
    assert (entry.actor, entry.subject) == ("retention", run_id(2))
    assert entry.detail["why"] == "too old"


def test_the_newest_of_a_version_that_exists_stays_however_old(
    catalogue: Catalogue, evidence: Evidence, removal: Removal
) -> None:
    evidence.add(scored(TWO, at=AT))
    assert removal.tidy(Retention(runs=1, days=1.0)) == 0
    catalogue.remove_version("support", "v1")
    assert removal.tidy(Retention(runs=1, days=1.0)) == 0  # v2's still
    catalogue.remove_version("support", "v2")
    assert removal.tidy(Retention(runs=1, days=1.0)) == 1
    assert kept(evidence) == []


def head(number: int, digests: dict[str, str] | None = None, **about: Any) -> Head:
    return Head.of(scored(digests or TWO, id=run_id(number), at=AT - number, **about))


def ids(found: list[tuple[Head, str]]) -> list[str]:
    return [one.run.id for one, _ in found]


def test_each_version_data_set_and_set_of_evaluators_has_a_newest_run() -> None:
    heads = [
        head(0),
        head(1, dataset="ood"),
        head(2, evaluators=(EVALUATOR, "f1")),
        head(3, {"v1": TWO["v1"]}),  # on `tickets` by the same evaluators as the first
        head(4, {"v1": TWO["v1"]}, dataset="ood"),
        head(5, {"v1": TWO["v1"]}, dataset="more"),
    ]
    assert ids(spare(heads, {"v1", "v2"}, runs=1, since=0.0)) == [run_id(3), run_id(4)]


def test_a_version_that_is_gone_keeps_nothing() -> None:
    heads = [head(0, {"v2": TWO["v2"]}), head(1, {"v1": TWO["v1"]})]
    assert ids(spare(heads, {"v2"}, runs=1, since=0.0)) == [run_id(1)]


def test_as_many_and_as_new_as_are_kept_stay() -> None:
    heads = [head(number) for number in range(3)]
    assert spare(heads, TWO, runs=3, since=AT - 2) == []
    assert ids(spare(heads, TWO, runs=2, since=AT - 2)) == [run_id(2)]
    assert ids(spare(heads, TWO, runs=3, since=AT - 1)) == [run_id(2)]
