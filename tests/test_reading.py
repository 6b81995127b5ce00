"""A snapshot that was read on from an earlier one is the one that is read anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import delete, update

from softprompt_serve.artifact import Content
from softprompt_serve.registry import reading
from softprompt_serve.registry.catalog import Catalogue
from softprompt_serve.registry.rollouts import Rollouts
from softprompt_serve.registry.snapshot import EMPTY
from softprompt_serve.registry.tables import AuditRow, StateRow, VersionRow
from softprompt_serve.rollout.spec import RolloutSpec
from softprompt_serve.router.ask import Labels

SPLIT = RolloutSpec.model_validate(
    {"arms": [{"version": "v1", "weight": 1}, {"version": "v2", "weight": 1}]}
)


@pytest.fixture
def catalogue(database_url: str) -> Iterator[Catalogue]:
    """Three prompts with two versions each."""
    opened = Catalogue.open(database_url)
    for prompt in "abc":
        for text in ("one", "two"):
            opened.add_version(prompt, None, Content("hard", text=text), {})
    yield opened
    opened.close()


CHANGES: list[Callable[[Catalogue, Rollouts], object]] = [
    lambda c, _: c.set_alias("b", "production", "v1"),
    lambda c, _: c.add_version("b", "extra", Content("hard", text="three"), {}),
    lambda c, _: c.add_version("d", None, Content("hard", text="four"), {}),
    lambda c, _: c.set_wanted("c", "v2", False),
    lambda _, r: r.put("a", SPLIT, if_match=None, actor=None),
    lambda _, r: r.promote("a", "v2", if_match=None, actor=None),
    lambda _, r: r.rollback("b", if_match=None, actor=None) if r.get("b") else None,
    lambda c, _: c.remove_version("d", "v1"),
    lambda c, _: c.remove_alias("b", "production"),
    lambda _, r: r.remove("a", if_match=None, actor=None),
]


def test_every_kind_of_change_is_followed(catalogue: Catalogue) -> None:
    rollouts = Rollouts(catalogue.database, Labels())
    followed = catalogue.snapshot()
    for change in CHANGES:
        change(catalogue, rollouts)
        followed = catalogue.snapshot(followed)
        assert followed == catalogue.snapshot()


def test_several_changes_are_followed_at_once(catalogue: Catalogue) -> None:
    before = catalogue.snapshot()
    rollouts = Rollouts(catalogue.database, Labels())
    for change in CHANGES:
        change(catalogue, rollouts)
    assert catalogue.snapshot(before) == catalogue.snapshot()


def test_what_has_not_changed_is_shared(catalogue: Catalogue) -> None:
    before = catalogue.snapshot()
    catalogue.set_alias("b", "production", "v1")
    after = catalogue.snapshot(before)
    assert after.prompts["a"] is before.prompts["a"]
    assert after.prompts["b"] is not before.prompts["b"]
    assert catalogue.snapshot(after) is after


def test_an_audit_that_does_not_continue_means_to_read_everything(catalogue: Catalogue) -> None:
    before = catalogue.snapshot()
    with catalogue.database.writing() as session:  # as if a backup had been put in place
        session.execute(update(VersionRow).values(created_by="restored"))
        session.execute(delete(AuditRow))
        session.execute(update(StateRow).values(revision=before.revision + 1))
    after = catalogue.snapshot(before)
    assert {v.created_by for v in after.versions()} == {"restored"}


def test_an_older_catalogue_is_read_anew(catalogue: Catalogue) -> None:
    before = catalogue.snapshot()
    with catalogue.database.writing() as session:
        session.execute(update(VersionRow).values(created_by="restored"))
        session.execute(update(StateRow).values(revision=before.revision - 1))
    after = catalogue.snapshot(before)
    assert {v.created_by for v in after.versions()} == {"restored"}


def test_many_changes_are_read_at_once(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = catalogue.snapshot()
    monkeypatch.setattr(reading, "MOST_CHANGES", 1)
    for alias in ("one", "two"):
        catalogue.set_alias("a", alias, "v1")
    after = catalogue.snapshot(before)
    assert after == catalogue.snapshot(EMPTY)
    assert after.prompts["b"] is not before.prompts["b"]
