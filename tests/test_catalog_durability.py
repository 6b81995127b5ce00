"""The catalogue's file: kill -9, several processes, and files that are gone, damaged or foreign."""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from softprompt_serve.artifact import Content
from softprompt_serve.errors import BadRequest, SoftpromptError, Unavailable
from softprompt_serve.registry import database, sqlite
from softprompt_serve.registry.catalog import Catalogue
from softprompt_serve.registry.store import BlobStore
from softprompt_serve.registry.tables import Base

# Imports versions, moves the alias and says so, until it is killed.
WRITER = """
import json, sys
from pathlib import Path
from softprompt_serve.artifact import Content
from softprompt_serve.registry.catalog import Catalogue
from softprompt_serve.registry.store import BlobStore

home = Path(sys.argv[1])
catalogue = Catalogue.open(f"sqlite:///{home}/catalogue.db")
blobs = BlobStore(home / "blobs")
print(json.dumps("ready"), flush=True)
number = catalogue.revision()
while True:
    number += 1
    content = Content("hard", text=f"text {number} " * 200)
    blobs.put(content.digest, content.header, content.data)
    version, _ = catalogue.add_version("support", None, content, {"seed": number}, "writer")
    print(json.dumps(["version", version.version, content.digest]), flush=True)
    catalogue.set_alias("support", "production", version.version)
    print(json.dumps(["alias", version.version, None]), flush=True)
"""
OPENER = """
import sys
from softprompt_serve.artifact import Content
from softprompt_serve.registry.catalog import Catalogue

sys.stdin.readline()
catalogue = Catalogue.open(sys.argv[1])
for number in range(20):
    catalogue.add_version(sys.argv[2], None, Content("hard", text=f"text {number}"), {})
"""


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder}/catalogue.db"


def text(value: str) -> Content:
    return Content("hard", text=value)


def write_until_killed(home: Path, seconds: float) -> list[list[str]]:
    """Everything that the writer acknowledged before its SIGKILL."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(home)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert json.loads(writer.stdout.readline()) == "ready"
        timer = threading.Timer(seconds, os.kill, (writer.pid, signal.SIGKILL))
        timer.start()
        lines = writer.stdout.read().splitlines(keepends=True)
    assert writer.returncode == -signal.SIGKILL
    return [json.loads(line) for line in lines if line.endswith("\n")]


def test_a_kill_at_any_point_leaves_the_last_acknowledged_state(tmp_path: Path) -> None:
    chance = random.Random(7)
    acknowledged: dict[str, str] = {}
    for _ in range(6):
        said = write_until_killed(tmp_path, chance.uniform(0.02, 0.5))
        acknowledged |= {name: digest for what, name, digest in said if what == "version"}
        catalogue = Catalogue.open(url_of(tmp_path))
        blobs = BlobStore(tmp_path / "blobs")
        snapshot, audit = catalogue.snapshot(), catalogue.audit(limit=1_000_000)
        catalogue.close()
        if not acknowledged:
            continue
        prompt = snapshot.prompts["support"]
        assert {n: v.digest for n, v in prompt.versions.items()}.items() >= acknowledged.items()
        for version in prompt.versions.values():
            header, data = blobs.get(version.digest)
            assert (json.loads(header)["text"], data) == (version.text, b"")
        aliases = [name for what, name, _ in said if what == "alias"]
        if aliases:
            # The last one that was acknowledged, or the one that was about to be.
            assert int(prompt.aliases["production"][1:]) - int(aliases[-1][1:]) in (0, 1)
        assert [e.revision for e in audit] == list(range(snapshot.revision, 0, -1))
    assert len(acknowledged) > 5


def test_a_reopened_catalogue_is_as_it_was(tmp_path: Path) -> None:
    catalogue = Catalogue.open(url_of(tmp_path))
    catalogue.add_version("p", "v1", text("a"), {"seed": 1}, "ada")
    catalogue.set_alias("p", "production", "v1")
    catalogue.set_wanted("p", "v1", wanted=False)
    before, audit = catalogue.snapshot(), catalogue.audit()
    catalogue.close()
    again = Catalogue.open(url_of(tmp_path))
    assert (again.snapshot(), again.audit()) == (before, audit)
    again.close()


def test_several_processes_may_create_and_write_at_once(tmp_path: Path) -> None:
    url = url_of(tmp_path / "new" / "home")
    command = [sys.executable, "-c", OPENER, url]
    processes = [
        subprocess.Popen([*command, f"p{n}"], stdin=subprocess.PIPE, text=True) for n in range(4)
    ]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    catalogue = Catalogue.open(url)
    assert catalogue.revision() == 80
    assert {len(p.versions) for p in catalogue.snapshot().prompts.values()} == {20}
    catalogue.close()


def test_threads_of_one_process_never_lose_a_change(tmp_path: Path) -> None:
    catalogue = Catalogue.open(url_of(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        names = pool.map(
            lambda n: catalogue.add_version("p", None, text(str(n)), {})[0].version, range(40)
        )
    assert sorted(names) == sorted(f"v{n}" for n in range(1, 41))
    assert catalogue.revision() == 40
    catalogue.close()


def expect_unavailable(folder: Path) -> None:
    with pytest.raises(Unavailable) as refused:
        Catalogue.open(url_of(folder))
    assert refused.value.code == "catalogue_unavailable"


def changes(catalogue: Catalogue) -> list:
    return [
        lambda: catalogue.add_version("p", "v2", text("b"), {}),
        lambda: catalogue.set_alias("p", "production", "v1"),
        lambda: catalogue.remove_alias("p", "old"),
        lambda: catalogue.set_wanted("p", "v1", wanted=False),
        lambda: catalogue.remove_version("p", "v1"),
        catalogue.revision,
        catalogue.snapshot,
        catalogue.audit,
    ]


@pytest.mark.parametrize("how", ["database", "log", "folder", "replaced", "garbage"])
def test_a_file_that_went_away_under_a_running_server_stops_all_changes(
    tmp_path: Path, how: str
) -> None:
    home = tmp_path / "home"
    catalogue = Catalogue.open(url_of(home))
    catalogue.add_version("p", "v1", text("a"), {})
    catalogue.set_alias("p", "old", "v1")
    path = home / "catalogue.db"
    match how:
        case "database":
            path.unlink()
        case "log":
            (home / "catalogue.db-wal").unlink()
        case "folder":
            shutil.rmtree(home)
        case "replaced":
            path.unlink()
            sqlite3.connect(path).close()
            path.touch()
        case "garbage":
            path.unlink()
            path.write_bytes(b"not a database" * 1000)
    for change in changes(catalogue):
        with pytest.raises(Unavailable) as refused:
            change()
        assert refused.value.code == "catalogue_unavailable"
    assert how != "database" or not path.exists()
    catalogue.close()


def test_a_file_that_is_put_back_is_used_again(tmp_path: Path) -> None:
    catalogue = Catalogue.open(url_of(tmp_path))
    catalogue.add_version("p", "v1", text("a"), {})
    (tmp_path / "catalogue.db").rename(tmp_path / "away")
    with pytest.raises(Unavailable):
        catalogue.revision()
    (tmp_path / "away").rename(tmp_path / "catalogue.db")
    catalogue.set_alias("p", "production", "v1")
    assert catalogue.revision() == 2
    catalogue.close()


def test_a_locked_database_is_unavailable_and_then_works_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
    catalogue = Catalogue.open(url_of(tmp_path))
    other = sqlite3.connect(tmp_path / "catalogue.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Unavailable, match="locked") as refused:
        catalogue.add_version("p", "v1", text("a"), {})
    assert refused.value.code == "catalogue_unavailable"
    other.execute("ROLLBACK")
    other.close()
    assert catalogue.add_version("p", "v1", text("a"), {})[1]
    catalogue.close()


def test_a_damaged_database_is_unavailable(tmp_path: Path) -> None:
    catalogue = Catalogue.open(url_of(tmp_path))
    for number in range(50):
        catalogue.add_version("p", None, text("x" * 500 + str(number)), {})
    catalogue.close()
    path = tmp_path / "catalogue.db"
    data = bytearray(path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(Unavailable) as refused:
        Catalogue.open(url_of(tmp_path)).snapshot()
    assert refused.value.code == "catalogue_unavailable"


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "catalogue.db").write_bytes(b"a letter to a friend\n" * 500)
    expect_unavailable(tmp_path)
    assert (tmp_path / "catalogue.db").read_bytes() == b"a letter to a friend\n" * 500


def test_another_program_s_database_is_left_alone(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "catalogue.db")
    other.execute("CREATE TABLE letters (text)")
    other.commit()
    other.close()
    before = (tmp_path / "catalogue.db").read_bytes()
    expect_unavailable(tmp_path)
    assert (tmp_path / "catalogue.db").read_bytes() == before


def test_a_schema_of_a_later_release_is_refused(tmp_path: Path) -> None:
    Catalogue.open(url_of(tmp_path)).close()
    later = sqlite3.connect(tmp_path / "catalogue.db")
    later.execute("UPDATE alembic_version SET version_num = '9999'")
    later.commit()
    later.close()
    with pytest.raises(Unavailable, match="later release"):
        Catalogue.open(url_of(tmp_path))


def test_a_path_that_cannot_be_created_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    expect_unavailable(tmp_path / "file")


@pytest.mark.parametrize(
    "url",
    [
        *("", "x", "sqlite://", "sqlite:///:memory:", "sqlite:///x?mode=ro"),
        *("mysql://h/d", "postgresql+asyncpg://h/d", "postgresql://u:p@h:port/d"),
    ],
)
def test_a_url_of_no_catalogue_is_refused(url: str) -> None:
    with pytest.raises(BadRequest) as refused:
        Catalogue.open(url)
    assert refused.value.code == "invalid_setting"


def test_paths_with_odd_characters_work(tmp_path: Path) -> None:
    path = tmp_path / "a b%20#é?" / "catalogue.db"
    catalogue = Catalogue.open(database.url_of(path))
    catalogue.add_version("p", None, text("a"), {})
    catalogue.close()
    assert path.exists()


def test_each_commit_is_synced_to_a_write_ahead_log(tmp_path: Path) -> None:
    opened = database.Database.open(url_of(tmp_path))
    with opened.writing() as session:
        run = session.connection().exec_driver_sql
        assert run("PRAGMA journal_mode").scalar() == "wal"
        assert run("PRAGMA synchronous").scalar() == 2
        assert run("PRAGMA foreign_keys").scalar() == 1
    opened.close()


def test_the_models_and_the_migrations_describe_the_same_tables(tmp_path: Path) -> None:
    opened = database.Database.open(url_of(tmp_path))
    with opened.reading() as session:
        context = MigrationContext.configure(session.connection())
        differences = compare_metadata(context, Base.metadata)
    opened.close()
    assert [d for d in differences if d[0] in ("add_table", "remove_table", "add_column")] == []
    assert [d for d in differences if d[0] == "remove_column"] == []


def test_an_error_inside_a_change_is_not_dressed_up(tmp_path: Path) -> None:
    opened = database.Database.open(url_of(tmp_path))

    def change() -> None:
        with opened.writing():
            msg = "mine"
            raise SoftpromptError(msg)

    with pytest.raises(SoftpromptError, match="mine"):
        change()
    opened.close()
