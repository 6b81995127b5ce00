"""What all tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from postgres import Postgres, running
from runs import TEXTS

from softprompt_serve.registry.catalog import Catalogue
from softprompt_serve.registry.evidence import Evidence

# The same examples on every run: a change fails for what it changed, not for its luck.
# Machines that run tests are busy; how long an example took says nothing about its correctness.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL, started for the first test that asks for it."""
    with running() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """A new, empty database on it."""
    url = postgres.create()
    yield url
    postgres.drop(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new, empty catalogue of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/catalogue.db"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def catalogue(database_url: str) -> Iterator[Catalogue]:
    """`support` with four versions, whose evaluations `runs` makes."""
    catalogue = Catalogue.open(database_url)
    for name, content in TEXTS.items():
        catalogue.add_version("support", name, content, {})
    yield catalogue
    catalogue.close()


@pytest.fixture
def evidence(catalogue: Catalogue) -> Evidence:
    """What is known of them."""
    return Evidence(catalogue.database)
