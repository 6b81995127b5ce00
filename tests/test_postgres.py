"""The catalogue in a real PostgreSQL: several writers, a server that is lost, and NOTIFY."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from postgres import Postgres
from sqlalchemy import text as sql

from softprompt_serve.artifact import Content
from softprompt_serve.errors import BadRequest, Conflict, Unavailable
from softprompt_serve.registry.catalog import Catalogue
from softprompt_serve.registry.database import Database
from softprompt_serve.registry.feed import Feed
from softprompt_serve.registry.listening import announce
from softprompt_serve.registry.postgres import (
    _SERVER_SETTINGS,
    ANSWER_SECONDS,
    CONNECT_SECONDS,
    MIGRATION_LOCK,
    BoundedConnection,
)
from softprompt_serve.registry.tables import Base

# What a caller waits at most for a server that is gone: an answer, then a new connection, and
# the time that a busy machine takes.
SECONDS = ANSWER_SECONDS + CONNECT_SECONDS + 4

OPENER = """
import sys
from softprompt_serve.artifact import Content
from softprompt_serve.registry.catalog import Catalogue

sys.stdin.readline()
catalogue = Catalogue.open(sys.argv[1])
for number in range(20):
    catalogue.add_version(sys.argv[2], None, Content("hard", text=f"text {number}"), {})
"""


@pytest.fixture
def catalogue(postgres_url: str) -> Iterator[Catalogue]:
    opened = Catalogue.open(postgres_url)
    yield opened
    opened.close()


def add(catalogue: Catalogue, text: str, prompt: str = "p") -> None:
    catalogue.add_version(prompt, None, Content("hard", text=text), {})


def refused(call: Callable[[], object]) -> Unavailable:
    """The error of a call to a database that is gone, which must not take long."""
    started = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        call()
    assert time.monotonic() - started < SECONDS
    assert caught.value.code == "catalogue_unavailable"
    return caught.value


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


# ---- opening


@pytest.mark.parametrize("driver", ["postgresql", "postgresql+psycopg"])
def test_both_ways_to_write_the_url_open_it(postgres_url: str, driver: str) -> None:
    url = postgres_url.replace("postgresql", driver)
    Catalogue.open(url).close()
    catalogue = Catalogue.open(url)
    assert catalogue.revision() == 0
    catalogue.close()


def test_several_processes_may_open_and_write_at_once(postgres_url: str) -> None:
    command = [sys.executable, "-c", OPENER, postgres_url]
    processes = [
        subprocess.Popen([*command, f"p{n}"], stdin=subprocess.PIPE, text=True) for n in range(3)
    ]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    catalogue = Catalogue.open(postgres_url)
    assert [entry.revision for entry in catalogue.audit(limit=100)] == list(range(60, 0, -1))
    assert {len(p.versions) for p in catalogue.snapshot().prompts.values()} == {20}
    catalogue.close()


def test_the_models_and_the_migrations_describe_the_same_tables(postgres_url: str) -> None:
    database = Database.open(postgres_url)
    with database.reading() as session:
        context = MigrationContext.configure(session.connection())
        differences = compare_metadata(context, Base.metadata)
    database.close()
    kinds = {difference[0] for difference in differences if isinstance(difference[0], str)}
    assert not kinds & {"add_table", "remove_table", "add_column", "remove_column"}


def test_a_schema_of_a_later_release_is_refused(postgres_url: str) -> None:
    Catalogue.open(postgres_url).close()
    with psycopg.connect(postgres_url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(Unavailable, match="later release"):
        Catalogue.open(postgres_url)


def test_a_migration_waits_for_another_longer_than_a_statement_may_take(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedConnection, "answer_seconds", 0.3)
    monkeypatch.setitem(_SERVER_SETTINGS, "lock_timeout", "0.2s")
    monkeypatch.setitem(_SERVER_SETTINGS, "statement_timeout", "0.2s")
    with psycopg.connect(postgres_url) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [MIGRATION_LOCK])
        with ThreadPoolExecutor(1) as pool:
            opening = pool.submit(Catalogue.open, postgres_url)
            time.sleep(1)
            assert not opening.done()
            connection.commit()
            opening.result(20).close()


def test_a_server_that_is_not_there_is_unavailable() -> None:
    refused(lambda: Catalogue.open("postgresql://me:a-secret@127.0.0.1:1/db"))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:a-secret@127.0.0.1:1/db",
        "postgresql://me@127.0.0.1:1/db?password=a-secret",
        "postgresql://me:a-secret@127.0.0.1:1/db?options=--nonsense",
        "postgresql://me:a-secret@127.0.0.1:1/db?nonsense=1",
        "postgresql://me:a-secret@host:port/db",
        "postgresql:me:a-secret@host/db",
    ],
)
def test_passwords_are_in_no_message(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises((Unavailable, BadRequest)) as caught:
        Catalogue.open(url)
    assert "a-secret" not in str(caught.value)
    assert "a-secret" not in caplog.text


def test_changes_are_durable_and_ordered_although_the_server_is_set_up_otherwise(
    postgres_url: str,
) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        name = postgres_url.rpartition("/")[2]
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
        connection.execute(
            f"ALTER DATABASE {name} SET default_transaction_isolation = serializable"
        )
    database = Database.open(postgres_url)
    for _ in range(2):  # a connection that read before, too
        with database.writing() as session:
            assert session.scalar(sql("SHOW synchronous_commit")) == "on"
            assert session.scalar(sql("SHOW transaction_isolation")) == "read committed"
        with database.reading() as session:
            assert session.scalar(sql("SHOW transaction_isolation")) == "repeatable read"
    database.close()


def test_what_is_in_use_is_closed_after_the_catalogue_was(postgres_url: str) -> None:
    database = Database.open(postgres_url)
    with database.reading() as session:
        session.scalar(sql("SELECT 1"))
        database.close()
        assert connections(postgres_url) == 1
    wait(lambda: connections(postgres_url) == 0)


# ---- several at once


def test_threads_never_lose_a_change(catalogue: Catalogue) -> None:
    with ThreadPoolExecutor(8) as pool:
        names = pool.map(
            lambda n: catalogue.add_version("p", None, Content("hard", text=str(n)), {})[0].version,
            range(40),
        )
    assert sorted(names) == sorted(f"v{n}" for n in range(1, 41))
    assert [entry.revision for entry in catalogue.audit()] == list(range(40, 0, -1))


def test_a_reader_sees_one_state_while_others_write(catalogue: Catalogue) -> None:
    add(catalogue, "a")
    with catalogue.database.reading() as session:
        count = sql("SELECT count(*) FROM versions")
        assert session.scalar(count) == 1
        add(catalogue, "b")
        assert session.scalar(count) == 1
    with catalogue.database.reading() as session:
        assert session.scalar(count) == 2


def test_a_reader_cannot_write(catalogue: Catalogue) -> None:
    with pytest.raises(Unavailable, match="read-only"), catalogue.database.reading() as session:
        session.execute(sql("UPDATE state SET revision = 9"))


def test_a_change_that_never_ends_holds_others_up_for_seconds_only(catalogue: Catalogue) -> None:
    with catalogue.database.writing():
        assert "lock timeout" in refused(lambda: add(catalogue, "a")).message
    add(catalogue, "a")


def test_what_touches_its_own_rows_only_waits_for_nobody(catalogue: Catalogue) -> None:
    database = catalogue.database
    with database.writing(), database.writing(alone=False) as session:
        assert session.scalar(sql("SELECT 1")) == 1


def test_the_clock_is_the_server_s(catalogue: Catalogue) -> None:
    with catalogue.database.reading() as session:
        first = catalogue.database.clock(session)
        assert first == pytest.approx(time.time(), abs=5)
        assert catalogue.database.clock(session) > first


def test_a_text_that_it_cannot_hold_is_a_bad_request(catalogue: Catalogue) -> None:
    with pytest.raises(BadRequest, match="NUL"):
        catalogue.add_version("p", None, Content("hard", text="a"), {}, actor="a\x00b")
    assert catalogue.revision() == 0


# ---- lost and back


def test_a_killed_server_stops_changes_and_loses_none(
    catalogue: Catalogue, postgres: Postgres
) -> None:
    acknowledged: list[str] = []
    wrote, stopped = threading.Event(), threading.Event()

    def write() -> None:
        while not stopped.is_set():
            text = f"text {len(acknowledged)}"
            try:
                add(catalogue, text)
            except Unavailable:
                return
            acknowledged.append(text)
            if len(acknowledged) > 20:
                wrote.set()

    writer = threading.Thread(target=write)
    writer.start()
    assert wrote.wait(20)
    postgres.kill()
    writer.join(20)
    stopped.set()
    try:
        for call in (lambda: add(catalogue, "lost"), catalogue.revision, catalogue.snapshot):
            message = refused(call).message
            assert "***" in message
            assert "a-secret" not in message
    finally:
        postgres.start()
    snapshot = catalogue.snapshot()
    texts = [version.text for version in snapshot.prompts["p"].versions.values()]
    assert texts[: len(acknowledged)] == acknowledged
    # The one that was about to be acknowledged may be there.
    assert len(texts) - len(acknowledged) in (0, 1)
    assert [e.revision for e in catalogue.audit(limit=10_000)] == list(
        range(snapshot.revision, 0, -1)
    )
    add(catalogue, "back")
    assert catalogue.revision() == snapshot.revision + 1


def test_a_frozen_server_is_unavailable_within_seconds(
    catalogue: Catalogue, postgres: Postgres
) -> None:
    add(catalogue, "a")
    with postgres.frozen():
        refused(lambda: add(catalogue, "b"))
        refused(catalogue.revision)
    add(catalogue, "c")


def test_a_server_that_freezes_in_the_middle_of_a_change_is_unavailable(
    catalogue: Catalogue, postgres: Postgres
) -> None:
    def change() -> None:
        with catalogue.database.writing() as session, postgres.frozen():
            session.execute(sql("UPDATE state SET revision = 9"))

    assert "no answer" in refused(change).message
    assert catalogue.revision() == 0


def test_a_feed_keeps_the_last_state_and_goes_on_when_the_server_is_back(
    catalogue: Catalogue, postgres: Postgres
) -> None:
    async def run() -> None:
        feed = Feed(catalogue, lambda _: None, 0.05)
        await feed.start()
        await asyncio.to_thread(add, catalogue, "a")
        await until(lambda: feed.snapshot.revision == 1)
        await asyncio.to_thread(postgres.kill)
        try:
            await until(lambda: not feed.healthy)
            assert feed.snapshot.revision == 1
        finally:
            await asyncio.to_thread(postgres.start)
        await until(lambda: feed.healthy)
        await asyncio.to_thread(add, catalogue, "b")
        await until(lambda: feed.snapshot.revision == 2)
        await feed.stop()

    asyncio.run(run())


# ---- NOTIFY


def test_a_feed_hears_of_a_change_long_before_it_would_look(
    catalogue: Catalogue, postgres_url: str
) -> None:
    async def run() -> float:
        feed, other = Feed(catalogue, lambda _: None, 30), Catalogue.open(postgres_url)
        await feed.start()
        await until(lambda: listeners(postgres_url) == 1)
        await asyncio.to_thread(add, other, "a")
        changed = time.monotonic()
        await until(lambda: feed.snapshot.revision == 1)
        took = time.monotonic() - changed
        await feed.stop()
        other.close()
        return took

    assert asyncio.run(run()) < 5


def test_a_listener_listens_again_after_the_server_was_lost(
    catalogue: Catalogue, postgres: Postgres, postgres_url: str
) -> None:
    async def run() -> None:
        feed = Feed(catalogue, lambda _: None, 60)
        await feed.start()
        await until(lambda: listeners(postgres_url) == 1)
        await asyncio.to_thread(postgres.kill)
        await asyncio.to_thread(postgres.start)
        await until(lambda: listeners(postgres_url) == 1)
        await asyncio.to_thread(add, catalogue, "a")
        await until(lambda: feed.snapshot.revision == 1)
        await feed.stop()

    asyncio.run(run())


def test_what_changed_while_nobody_listened_is_seen(catalogue: Catalogue) -> None:
    woken = threading.Event()
    add(catalogue, "a")
    catalogue.subscribe(woken.set)
    assert woken.wait(10)


def test_a_refused_change_tells_nobody(catalogue: Catalogue) -> None:
    told: list[None] = []
    catalogue.subscribe(lambda: told.append(None))
    wait(lambda: len(told) == 1)  # it listens

    def change() -> None:
        with catalogue.database.writing() as session:
            announce(session, 1)
            msg = "on second thoughts"
            raise Conflict(msg)

    with pytest.raises(Conflict):
        change()
    add(catalogue, "a")
    wait(lambda: len(told) == 2)
    time.sleep(0.1)
    assert len(told) == 2


def test_a_closed_catalogue_leaves_no_listener(postgres_url: str) -> None:
    catalogue = Catalogue.open(postgres_url)
    ends = [catalogue.subscribe(lambda: None) for _ in range(2)]
    wait(lambda: listeners(postgres_url) == 2)
    ends[0]()
    wait(lambda: listeners(postgres_url) == 1)
    catalogue.close()
    wait(lambda: listeners(postgres_url) == 0)


def wait(condition: Callable[[], bool]) -> None:
    asyncio.run(until(condition))


def listeners(url: str) -> int:
    return connections(url, "LISTEN%")


def connections(url: str, query: str = "%") -> int:
    """Other connections to a database whose last statement is like ``query``."""
    asked = """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND query LIKE %s AND pid <> pg_backend_pid()
    """
    with psycopg.connect(url) as connection:
        return connection.execute(asked, [query]).fetchone()[0]
