"""Catalogues of earlier releases are upgraded where they are, with all that they hold."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, create_engine
from sqlalchemy import text as sql

from softprompt_serve.artifact import Content
from softprompt_serve.registry.catalog import Catalogue
from softprompt_serve.registry.policies import Policies
from softprompt_serve.registry.sqlite import APPLICATION_ID
from softprompt_serve.release.policy import Policy

OLD = Content("hard", text="an old text")
AT = "2025-01-02T03:04:05.678Z"
VERSION = {
    "digest": OLD.digest,
    "at": AT,
    "record": json.dumps({"seed": 1}),
}


@contextmanager
def catalogue_at(revision: str, database_url: str) -> Iterator[Connection]:
    """An empty catalogue as an earlier release made it."""
    engine = create_engine(database_url.replace("postgresql:", "postgresql+psycopg:"))
    config = Config()
    config.set_main_option("script_location", "softprompt_serve.registry:migrations")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        if database_url.startswith("sqlite"):
            connection.execute(sql(f"PRAGMA application_id={APPLICATION_ID}"))
        yield connection
    engine.dispose()


@pytest.fixture
def first_release(database_url: str) -> str:
    """A catalogue as the first release left it: three versions, one removed, one alias."""
    with catalogue_at("0001", database_url) as connection:
        for number, removed in ((1, None), (2, AT), (3, None)):
            connection.execute(
                sql(
                    "INSERT INTO versions (prompt, name, digest, kind, virtual_tokens, hidden_size,"
                    " dtype, text, wanted, record, created_at, created_by, removed_at) VALUES"
                    " ('support', :name, :digest, 'hard', 0, 0, NULL, 'an old text', :wanted,"
                    " :record, :at, 'ada', :removed)"
                ),
                {**VERSION, "name": f"v{number}", "wanted": number == 1, "removed": removed},
            )
        connection.execute(sql("INSERT INTO aliases VALUES ('support', 'production', 'v1')"))
        connection.execute(
            sql(
                "INSERT INTO audit (revision, at, actor, action, prompt, subject, detail) VALUES"
                " (7, :at, 'ada', 'alias.set', 'support', 'production', '{}')"
            ),
            {"at": AT},
        )
        connection.execute(sql("UPDATE state SET revision = 7"))
    return database_url


def test_the_first_release_s_catalogue_is_upgraded_with_its_data(first_release: str) -> None:
    catalogue = Catalogue.open(first_release)
    snapshot = catalogue.snapshot()
    assert snapshot.revision == 7
    prompt = snapshot.prompts["support"]
    assert {name: version.wanted for name, version in prompt.versions.items()} == {
        "v1": True,
        "v3": False,
    }
    assert prompt.rollout is None
    version = prompt.find("production")
    assert (version.version, version.text, version.digest) == ("v1", OLD.text, OLD.digest)
    assert (version.created_at, version.created_by) == (AT, "ada")
    assert dict(version.record) == {"seed": 1}
    (entry,) = catalogue.audit()
    assert (entry.revision, entry.action, entry.at) == (7, "alias.set", AT)
    catalogue.close()


def test_an_upgraded_catalogue_takes_changes(first_release: str) -> None:
    catalogue = Catalogue.open(first_release)
    added, _ = catalogue.add_version("support", None, Content("hard", text="new"), {})
    assert added.version == "v4"
    assert catalogue.revision() == 8
    catalogue.close()


def test_upgrading_twice_changes_nothing(first_release: str) -> None:
    first = Catalogue.open(first_release)
    before = first.snapshot()
    first.close()
    again = Catalogue.open(first_release)
    assert again.snapshot() == before
    again.close()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["soft"], ("soft", "prefix")),
        (["base", "soft", "hard"], ("base", "soft", "prefix", "hard")),
        (["hard"], ("hard",)),
    ],
)
def test_a_policy_that_asked_of_soft_versions_asks_of_prefixes_too(
    database_url: str, before: list[str], after: tuple[str, ...]
) -> None:
    policy = Policy(baseline="v1", min_items=9)
    with catalogue_at("0006", database_url) as connection:
        connection.execute(
            sql("INSERT INTO policies VALUES (:prompt, :document, :at, 'ada')"),
            {
                "prompt": "support",
                "document": json.dumps(policy.to_json() | {"kinds": before}),
                "at": AT,
            },
        )
    catalogue = Catalogue.open(database_url)
    found = Policies(catalogue.database).get("support")
    assert found.policy == policy.model_copy(update={"kinds": after})
    assert (found.updated_at, found.updated_by) == (AT, "ada")
    catalogue.close()
