from __future__ import annotations

import threading
import time
from importlib.resources import files
from typing import TYPE_CHECKING

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, inspect
from sqlalchemy import text as sql
from typer.testing import CliRunner

from softprompt_serve.cli import app
from softprompt_serve.registry.database import Database
from softprompt_serve.registry.migrations import versions
from softprompt_serve.registry.sqlite import APPLICATION_ID

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

NEWEST = max(path.name[:4] for path in files(versions).iterdir() if path.name[0] == "0")
pytestmark = pytest.mark.usefixtures("clean_environment")


@pytest.fixture
def catalogue(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database of either kind with the first release's tables."""
    monkeypatch.setenv("SOFTPROMPT_DATABASE_URL", database_url)
    engine = create_engine(driver(database_url))
    config = Config()
    config.set_main_option("script_location", "softprompt_serve.registry:migrations")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        if database_url.startswith("sqlite"):
            connection.execute(sql(f"PRAGMA application_id={APPLICATION_ID}"))
    engine.dispose()
    return database_url


def driver(url: str) -> str:
    return url.replace("postgresql:", "postgresql+psycopg:")


def run(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(app, ["migrate", *arguments])
    assert result.exit_code == status, result.output
    return result


def test_it_says_from_which_revision_to_which(catalogue: str) -> None:
    assert f"from 0001 to {NEWEST}" in run().stdout
    assert Database.look(catalogue).current


def test_again_there_is_nothing_to_do(catalogue: str) -> None:
    run()
    assert f"is current, at {NEWEST}" in run().stdout


def test_an_empty_database_gets_all_tables(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOFTPROMPT_DATABASE_URL", database_url)
    assert f"from no tables to {NEWEST}" in run().stdout


def test_without_a_url_it_is_the_file_in_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOFTPROMPT_HOME", str(tmp_path / "home"))
    run()
    assert (tmp_path / "home" / "catalogue.db").is_file()


def test_check_of_an_old_schema_fails_and_changes_nothing(catalogue: str) -> None:
    assert f"0001, and this release needs {NEWEST}" in run("--check", status=1).stdout
    engine = create_engine(driver(catalogue))
    assert "rollouts" not in inspect(engine).get_table_names()
    engine.dispose()


def test_check_of_a_current_schema_succeeds(catalogue: str) -> None:
    run()
    run("--check")


def test_check_creates_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTPROMPT_HOME", str(tmp_path))
    assert "catalogue_unavailable" in run("--check", status=1).stderr
    assert list(tmp_path.iterdir()) == []


def test_check_waits_for_another_to_migrate(catalogue: str) -> None:
    other = threading.Timer(1.5, Database.migrate, [catalogue])
    other.start()
    began = time.monotonic()
    run("--check", "--wait", "30")
    other.join()
    assert 1.0 < time.monotonic() - began < 20.0


def test_check_waits_for_a_database_that_is_not_there_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/later.db"
    monkeypatch.setenv("SOFTPROMPT_DATABASE_URL", url)
    other = threading.Timer(1.5, Database.migrate, [url])
    other.start()
    run("--check", "--wait", "30")
    other.join()


def test_a_later_releases_catalogue_is_refused_either_way(catalogue: str) -> None:
    engine = create_engine(driver(catalogue))
    with engine.begin() as connection:
        connection.execute(sql("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    for arguments in ([], ["--check"]):
        assert "later release" in run(*arguments, status=1).stderr


def test_a_database_that_is_not_reached_is_an_error_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOFTPROMPT_DATABASE_URL", "postgresql://ada:a-secret@127.0.0.1:9/db")
    failed = run(status=1)
    assert "catalogue_unavailable" in failed.stderr
    assert "a-secret" not in failed.output


def test_waiting_is_for_a_check(catalogue: str) -> None:
    assert "--check" in run("--wait", "3", status=2).stderr
