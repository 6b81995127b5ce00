"""What the catalogue promises about prompts, versions, aliases and the audit."""

from collections.abc import Iterator

import pytest

from softprompt_serve.artifact import Content
from softprompt_serve.errors import BadRequest, Conflict, NotFound, SoftpromptError
from softprompt_serve.registry.catalog import Catalogue

SOFT = Content("soft", dtype="float32", shape=(2, 3), data=bytes(24))


def text(value: str) -> Content:
    return Content("hard", text=value)


@pytest.fixture
def catalogue(database_url: str) -> Iterator[Catalogue]:
    opened = Catalogue.open(database_url)
    yield opened
    opened.close()


def test_a_new_catalogue_is_empty(catalogue: Catalogue) -> None:
    snapshot = catalogue.snapshot()
    assert (snapshot.revision, dict(snapshot.prompts)) == (0, {})


def test_a_version_is_kept_with_all_its_facts(catalogue: Catalogue) -> None:
    added, created = catalogue.add_version("support", "v7", SOFT, {"seed": 1, "notes": None}, "ada")
    assert created
    version = catalogue.snapshot().prompts["support"].versions["v7"]
    assert version == added
    assert (version.digest, version.kind, version.dtype) == (SOFT.digest, "soft", "float32")
    assert (version.virtual_tokens, version.hidden_size, version.text) == (2, 3, None)
    assert (version.wanted, version.created_by) == (True, "ada")
    assert dict(version.record) == {"seed": 1, "notes": None}
    assert version.created_at.endswith("Z")


def test_versions_are_numbered_when_no_name_is_given(catalogue: Catalogue) -> None:
    names = [catalogue.add_version("p", None, text(t), {})[0].version for t in "abc"]
    assert names == ["v1", "v2", "v3"]


def test_numbering_goes_on_after_the_highest_number(catalogue: Catalogue) -> None:
    catalogue.add_version("p", "v9", text("a"), {})
    catalogue.add_version("p", "v10-beta", text("b"), {})
    assert catalogue.add_version("p", None, text("c"), {})[0].version == "v10"


def test_numbering_never_comes_back_to_a_removed_version_or_an_alias(
    catalogue: Catalogue,
) -> None:
    catalogue.add_version("p", None, text("a"), {})
    catalogue.add_version("p", None, text("b"), {})
    catalogue.remove_version("p", "v2")
    catalogue.set_alias("p", "v3", "v1")
    assert catalogue.add_version("p", None, text("c"), {})[0].version == "v4"


def test_the_same_content_under_the_same_name_is_the_same_version(catalogue: Catalogue) -> None:
    first, _ = catalogue.add_version("p", "v1", text("a"), {"seed": 1}, "ada")
    again = catalogue.add_version("p", "v1", text("a"), {"seed": 2}, "bob")
    assert again == (first, False)
    assert catalogue.revision() == 1


def test_the_same_content_without_a_name_is_the_version_that_has_it(catalogue: Catalogue) -> None:
    first, _ = catalogue.add_version("p", "first", text("a"), {})
    assert catalogue.add_version("p", None, text("a"), {}) == (first, False)


def test_the_same_content_may_have_another_name_or_prompt(catalogue: Catalogue) -> None:
    catalogue.add_version("p", "v1", text("a"), {})
    assert catalogue.add_version("p", "copy", text("a"), {})[1]
    assert catalogue.add_version("q", None, text("a"), {})[1]


def test_other_content_under_an_existing_name_is_a_conflict(catalogue: Catalogue) -> None:
    catalogue.add_version("p", "v1", text("a"), {})
    with pytest.raises(Conflict) as refused:
        catalogue.add_version("p", "v1", text("b"), {})
    assert refused.value.code == "version_exists"
    assert catalogue.snapshot().prompts["p"].versions["v1"].text == "a"


@pytest.mark.parametrize("name", ["", "A", "-a", "a b", "a/b", "a" * 64, "ä", "a\n", "a@b"])
def test_names_that_are_none_are_refused(catalogue: Catalogue, name: str) -> None:
    catalogue.add_version("p", "v1", text("a"), {})
    for attempt in (
        lambda: catalogue.add_version(name, None, text("a"), {}),
        lambda: catalogue.add_version("p", name, text("a"), {}),
        lambda: catalogue.set_alias("p", name, "v1"),
    ):
        with pytest.raises(BadRequest) as refused:
            attempt()
        assert refused.value.code == "invalid_name"


def test_an_alias_moves_and_says_what_it_meant_before(catalogue: Catalogue) -> None:
    catalogue.add_version("p", "v1", text("a"), {})
    catalogue.add_version("p", "v2", text("b"), {})
    assert catalogue.set_alias("p", "production", "v1")[1] is None
    version, previous = catalogue.set_alias("p", "production", "v2")
    assert (version.version, previous) == ("v2", "v1")
    assert catalogue.snapshot().prompts["p"].find("production") == version


def test_setting_the_same_alias_again_changes_nothing(catalogue: Catalogue) -> None:
    catalogue.add_version("p", "v1", text("a"), {})
    catalogue.set_alias("p", "production", "v1")
    assert catalogue.set_alias("p", "production", "v1")[1] == "v1"
    assert catalogue.revision() == 2


def test_an_alias_cannot_take_the_name_of_a_version(catalogue: Catalogue) -> None:
    catalogue.add_version("p", "v1", text("a"), {})
    catalogue.add_version("p", "v2", text("b"), {})
    with pytest.raises(Conflict) as refused:
        catalogue.set_alias("p", "v2", "v1")
    assert refused.value.code == "name_taken"


def test_a_version_cannot_take_the_name_of_an_alias(catalogue: Catalogue) -> None:
    catalogue.add_version("p", "v1", text("a"), {})
    catalogue.set_alias("p", "production", "v1")
    with pytest.raises(Conflict) as refused:
        catalogue.add_version("p", "production", text("b"), {})
    assert refused.value.code == "name_taken"


def test_an_alias_of_one_prompt_is_unknown_to_another(catalogue: Catalogue) -> None:
    catalogue.add_version("p", "v1", text("a"), {})
    catalogue.add_version("q", "v1", text("b"), {})
    catalogue.set_alias("p", "production", "v1")
    assert dict(catalogue.snapshot().prompts["q"].aliases) == {}


def test_a_removed_alias_is_gone(catalogue: Catalogue) -> None:
    catalogue.add_version("p", "v1", text("a"), {})
    catalogue.set_alias("p", "production", "v1")
    catalogue.remove_alias("p", "production")
    assert catalogue.snapshot().prompts["p"].find("production") is None


def test_what_does_not_exist_is_not_found(catalogue: Catalogue) -> None:
    catalogue.add_version("p", "v1", text("a"), {})
    attempts = {
        "prompt_not_found": [
            lambda: catalogue.set_alias("x", "production", "v1"),
            lambda: catalogue.remove_alias("x", "production"),
            lambda: catalogue.set_wanted("x", "v1", wanted=True),
            lambda: catalogue.remove_version("x", "v1"),
        ],
        "version_not_found": [
            lambda: catalogue.set_alias("p", "production", "v9"),
            lambda: catalogue.set_wanted("p", "v9", wanted=True),
            lambda: catalogue.remove_version("p", "v9"),
        ],
        "alias_not_found": [lambda: catalogue.remove_alias("p", "production")],
    }
    for code, calls in attempts.items():
        for call in calls:
            with pytest.raises(NotFound) as refused:
                call()
            assert refused.value.code == code
    assert catalogue.revision() == 1


def test_wanted_is_kept(catalogue: Catalogue) -> None:
    catalogue.add_version("p", "v1", text("a"), {})
    assert not catalogue.set_wanted("p", "v1", wanted=False).wanted
    assert not catalogue.snapshot().prompts["p"].versions["v1"].wanted
    assert catalogue.set_wanted("p", "v1", wanted=True).wanted


def test_wanting_what_is_wanted_changes_nothing(catalogue: Catalogue) -> None:
    catalogue.add_version("p", "v1", text("a"), {})
    catalogue.set_wanted("p", "v1", wanted=True)
    assert catalogue.revision() == 1


def test_a_version_that_an_alias_names_cannot_be_removed(catalogue: Catalogue) -> None:
    catalogue.add_version("p", "v1", text("a"), {})
    catalogue.set_alias("p", "production", "v1")
    with pytest.raises(Conflict, match="production") as refused:
        catalogue.remove_version("p", "v1")
    assert refused.value.code == "version_aliased"


def test_a_prompt_goes_with_its_last_version(catalogue: Catalogue) -> None:
    catalogue.add_version("p", "v1", text("a"), {})
    catalogue.remove_version("p", "v1")
    assert catalogue.snapshot().prompt("p") is None


def test_a_removed_name_never_means_other_content(catalogue: Catalogue) -> None:
    catalogue.add_version("p", "v1", text("a"), {})
    catalogue.remove_version("p", "v1")
    with pytest.raises(Conflict) as refused:
        catalogue.add_version("p", "v1", text("b"), {})
    assert refused.value.code == "version_removed"


@pytest.mark.parametrize("name", ["v1", None])
def test_the_same_content_restores_a_removed_version(
    catalogue: Catalogue, name: str | None
) -> None:
    catalogue.add_version("p", "v1", text("a"), {"seed": 1}, "ada")
    catalogue.set_wanted("p", "v1", wanted=False)
    catalogue.remove_version("p", "v1")
    version, created = catalogue.add_version("p", name, text("a"), {"seed": 2}, "bob")
    assert created
    assert (version.version, version.text, version.wanted) == ("v1", "a", True)
    assert (dict(version.record), version.created_by) == ({"seed": 2}, "bob")


def test_removal_erases_the_text(catalogue: Catalogue) -> None:
    catalogue.add_version("p", "v1", text("a very secret text"), {})
    removed = catalogue.remove_version("p", "v1")
    assert removed.text == "a very secret text"
    with catalogue._database.reading() as session:
        rows = session.connection().exec_driver_sql("SELECT text FROM versions").all()
    assert rows == [(None,)]


def test_each_change_steps_the_revision_and_leaves_one_audit_row(catalogue: Catalogue) -> None:
    catalogue.add_version("p", "v1", text("a"), {}, "ada")
    catalogue.set_alias("p", "production", "v1", "bob")
    catalogue.remove_alias("p", "production", "bob")
    catalogue.set_wanted("p", "v1", wanted=False, actor=None)
    catalogue.set_wanted("p", "v1", wanted=True, actor=None)
    catalogue.remove_version("p", "v1", "ada")
    catalogue.add_version("p", "v1", text("a"), {}, "ada")
    entries = catalogue.audit()
    assert [(e.revision, e.action, e.subject, e.actor) for e in entries] == [
        (7, "version.restored", "v1", "ada"),
        (6, "version.removed", "v1", "ada"),
        (5, "version.wanted", "v1", None),
        (4, "version.unwanted", "v1", None),
        (3, "alias.removed", "production", "bob"),
        (2, "alias.set", "production", "bob"),
        (1, "version.imported", "v1", "ada"),
    ]
    assert entries[5].detail == {"version": "v1", "previous": None}
    assert entries[6].detail == {"digest": text("a").digest, "kind": "hard"}
    assert catalogue.revision() == 7


def test_a_refused_change_leaves_no_trace(catalogue: Catalogue) -> None:
    catalogue.add_version("p", "v1", text("a"), {})
    before = catalogue.snapshot()
    for attempt in (
        lambda: catalogue.add_version("p", "v1", text("b"), {}),
        lambda: catalogue.set_alias("p", "v1", "v1"),
        lambda: catalogue.set_alias("p", "production", "v2"),
    ):
        with pytest.raises(SoftpromptError):
            attempt()
    assert catalogue.snapshot() == before
    assert len(catalogue.audit()) == 1


def test_the_audit_is_read_page_by_page_and_by_prompt(catalogue: Catalogue) -> None:
    for prompt in ("p", "q", "p", "q", "p"):
        catalogue.add_version(prompt, None, text(f"{prompt}{catalogue.revision()}"), {})
    first = catalogue.audit(limit=2)
    rest = catalogue.audit(before=first[-1].id)
    assert [e.revision for e in first + rest] == [5, 4, 3, 2, 1]
    assert [e.revision for e in catalogue.audit(prompt="q")] == [4, 2]


def test_prompts_and_versions_keep_the_order_of_creation(catalogue: Catalogue) -> None:
    for prompt, version in (("z", "v2"), ("a", "v1"), ("z", "v1")):
        catalogue.add_version(prompt, version, text(version), {})
    prompts = catalogue.snapshot().prompts
    assert list(prompts) == ["z", "a"]
    assert list(prompts["z"].versions) == ["v2", "v1"]


def test_a_snapshot_cannot_be_changed(catalogue: Catalogue) -> None:
    catalogue.add_version("p", "v1", text("a"), {"seed": 1})
    snapshot = catalogue.snapshot()
    for mapping in (
        snapshot.prompts,
        snapshot.prompts["p"].versions,
        snapshot.prompts["p"].aliases,
        snapshot.prompts["p"].versions["v1"].record,
    ):
        with pytest.raises(TypeError):
            mapping["x"] = None


def test_a_record_that_is_not_json_is_an_error_and_no_change(catalogue: Catalogue) -> None:
    with pytest.raises(ValueError, match="JSON"):
        catalogue.add_version("p", "v1", text("a"), {"seed": float("nan")})
    assert catalogue.revision() == 0
