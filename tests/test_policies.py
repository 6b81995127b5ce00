"""Policies in the catalogue, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from softprompt_serve.artifact import Content
from softprompt_serve.errors import BadRequest, NotFound, Stale
from softprompt_serve.registry.catalog import Catalogue
from softprompt_serve.registry.policies import NO_POLICY, Policies, tag_of
from softprompt_serve.release.policy import Policy, parse_policy

POLICY = parse_policy({"baseline": "v1", "win": [{"evaluator": "f1", "dataset": "tickets"}]})
OTHER = parse_policy({"baseline": "v1", "min_items": 10})


@pytest.fixture
def catalogue(database_url: str) -> Iterator[Catalogue]:
    """`support` with v1, a text, and v2, the base model."""
    catalogue = Catalogue.open(database_url)
    catalogue.add_version("support", "v1", Content("hard", text="Be brief."), {})
    catalogue.add_version("support", "v2", Content("base"), {})
    yield catalogue
    catalogue.close()


@pytest.fixture
def policies(catalogue: Catalogue) -> Policies:
    return Policies(catalogue.database)


def test_a_prompt_has_no_policy_until_one_is_set(policies: Policies) -> None:
    found = policies.get("support")
    assert (found.policy, found.updated_at, found.updated_by) == (None, None, None)
    assert found.tag == NO_POLICY


def test_a_policy_is_read_as_it_was_set_with_who_did(policies: Policies) -> None:
    made, new = policies.put("support", POLICY, actor="ada")
    assert new
    found = policies.get("support")
    assert found == made
    assert (found.policy, found.updated_by, found.tag) == (POLICY, "ada", tag_of(POLICY))
    assert found.updated_at.endswith("Z")


def test_setting_is_one_change_whose_audit_row_has_the_whole_document(
    policies: Policies, catalogue: Catalogue
) -> None:
    before = catalogue.revision()
    policies.put("support", POLICY, actor="ada")
    policies.put("support", OTHER, actor="bob")
    assert catalogue.revision() == before + 2
    second, first = catalogue.audit(limit=2)
    assert (first.action, first.actor, first.subject) == ("policy.set", "ada", "policy")
    assert parse_policy(first.detail["policy"]) == POLICY
    assert first.detail["changed"] == ["baseline", "win"]
    assert (second.actor, second.detail["changed"]) == ("bob", ["min_items", "win"])


def test_the_same_policy_again_changes_nothing(policies: Policies, catalogue: Catalogue) -> None:
    first, _ = policies.put("support", POLICY, actor="ada")
    before = catalogue.revision()
    again, new = policies.put("support", POLICY, actor="bob")
    assert (again, new) == (first, False)
    assert catalogue.revision() == before


def test_a_removed_policy_is_gone_and_audited(policies: Policies, catalogue: Catalogue) -> None:
    policies.put("support", POLICY)
    removed = policies.remove("support", actor="ada")
    assert removed.policy == POLICY
    assert policies.get("support").policy is None
    (entry,) = catalogue.audit(limit=1)
    assert (entry.action, entry.actor) == ("policy.remove", "ada")
    assert parse_policy(entry.detail["policy"]) == POLICY


def test_removing_nothing_changes_nothing(policies: Policies, catalogue: Catalogue) -> None:
    before = catalogue.revision()
    assert policies.remove("support").policy is None
    assert catalogue.revision() == before


def test_whoever_has_seen_another_policy_changes_nothing(policies: Policies) -> None:
    policies.put("support", POLICY, if_match=NO_POLICY)
    for change in (
        lambda tag: policies.put("support", OTHER, if_match=tag),
        lambda tag: policies.remove("support", if_match=tag),
    ):
        with pytest.raises(Stale) as error:
            change(NO_POLICY)
        assert error.value.code == "stale_policy"
    assert policies.get("support").policy == POLICY
    policies.put("support", OTHER, if_match=tag_of(POLICY))
    assert policies.remove("support", if_match=tag_of(OTHER)).policy == OTHER


def test_of_many_who_saw_the_same_one_changes_it(policies: Policies) -> None:
    def put(number: int) -> bool:
        policy = Policy(baseline="v1", min_items=number + 1)
        try:
            return policies.put("support", policy, if_match=NO_POLICY)[1]
        except Stale:
            return False

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(put, range(6))) == 1


@pytest.mark.parametrize("baseline", ["v2", "v9", "production"])
def test_a_baseline_that_is_no_text_that_answers_is_refused(
    policies: Policies, baseline: str
) -> None:
    with pytest.raises(BadRequest) as error:
        policies.put("support", Policy(baseline=baseline))
    assert (error.value.code, error.value.param) == ("invalid_policy", "baseline")
    assert policies.get("support").policy is None


def test_a_baseline_that_is_unloaded_is_refused(policies: Policies, catalogue: Catalogue) -> None:
    catalogue.set_wanted("support", "v1", False)
    with pytest.raises(BadRequest, match="unloaded"):
        policies.put("support", POLICY)


def test_a_baseline_may_be_named_by_an_alias(policies: Policies, catalogue: Catalogue) -> None:
    catalogue.set_alias("support", "baseline", "v1")
    assert policies.put("support", Policy(baseline="baseline"))[1]


def test_a_policy_for_a_prompt_that_is_not_there_is_refused(policies: Policies) -> None:
    for change in (lambda: policies.put("sales", POLICY), lambda: policies.remove("sales")):
        with pytest.raises(NotFound) as error:
            change()
        assert error.value.code == "prompt_not_found"


def test_a_tag_names_what_a_policy_says_not_how_it_was_written() -> None:
    written = "baseline: v1\nmin_items: 50\nwin:\n- {dataset: tickets, evaluator: f1}\n"
    assert tag_of(parse_policy(written)) == tag_of(POLICY)
    assert tag_of(OTHER) != tag_of(POLICY)
