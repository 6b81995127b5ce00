"""The catalogue's SQLite file: opened, migrated, and each transaction guarded.

Durability: write-ahead log with ``synchronous=FULL``, so a commit is on disk before it returns.
A file that was deleted or replaced under a running server is noticed before each transaction
ends, because SQLite would go on writing to the file that no longer has a name.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import Connection, QueuePool, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.orm import Session

from softprompt_serve.errors import BadRequest, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

# "SPsv": written into the file's header, so that no other program's database is migrated.
APPLICATION_ID: Final = 0x53507376
BUSY_SECONDS: Final = 5.0
MIGRATION_SECONDS: Final = 60.0
_WRITE: Final = "softprompt_write"


def url_of(path: Path) -> str:
    """The URL of a catalogue file, with the characters that mean something in URLs escaped."""
    return f"sqlite:///{quote(str(path.expanduser().absolute()))}"


class Database:
    """An open catalogue file; one per process, usable from any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wal = path.with_name(path.name + "-wal")
        self._engine = create_engine(
            "sqlite://",
            creator=self._connect,
            poolclass=QueuePool,
            pool_size=4,
            max_overflow=4,
            pool_timeout=BUSY_SECONDS,
        )
        event.listen(self._engine, "begin", _begin)
        self._identity: tuple[int, int] | None = None

    @classmethod
    def open(cls, url: str) -> Self:
        """Create the file if need be and bring its schema up to date.

        Several processes may do this at once: a lock file beside the database orders them.

        Raises:
            BadRequest: ``code="invalid_setting"``: not a URL of a SQLite file.
            Unavailable: ``code="catalogue_unavailable"``: not to be opened, locked, damaged,
                another program's, or written by a later release.
        """
        path = _path_of(url)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(path.with_name(path.name + ".lock")):
                database = cls(path)
                try:
                    database._prepare()
                except BaseException:
                    database.close()
                    raise
        except OSError as error:
            msg = f"Can't open the catalogue {path}: {error.strerror or error}."
            raise Unavailable(msg, code="catalogue_unavailable") from error
        return database

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that sees one state of the catalogue.

        Raises:
            Unavailable: ``code="catalogue_unavailable"``.
        """
        with self._guarded(), Session(self._engine) as session, session.begin():
            yield session
            # Last, because the first read of a new connection is what opens the log.
            self._check_identity()

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session whose changes are committed, durably, when the block ends without error.

        Raises:
            Unavailable: ``code="catalogue_unavailable"``; nothing was changed.
        """
        with self._guarded(), Session(self._engine) as session, session.begin():
            session.connection(execution_options={_WRITE: True})
            self._check_identity()
            yield session
            session.flush()
            self._check_identity()

    def _prepare(self) -> None:
        # Only here may the file come into being; connections open it as existing.
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        os.close(descriptor)
        self._identity = self._found()
        with self._guarded():
            raw = self._engine.raw_connection()
            try:
                _prepare_file(raw.cursor(), self._path)
            finally:
                raw.close()
            with self._engine.connect().execution_options(**{_WRITE: True}) as connection:
                _migrate(connection, self._path)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(str(self._path))}?mode=rw",
            uri=True,
            timeout=BUSY_SECONDS,
            check_same_thread=False,
            # Transactions are begun by _begin, also for changes of the schema.
            isolation_level=None,
        )
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        return connection

    def _found(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _check_identity(self) -> None:
        """Ask inside a transaction that has read or written: only then must the log exist too."""
        if self._found() != self._identity or not self._wal.exists():
            msg = (
                f"The catalogue {self._path} was removed or replaced while it was open; nothing "
                "was changed. Put it back and restart."
            )
            raise Unavailable(msg, code="catalogue_unavailable")

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error) as error:
            reason = getattr(error, "orig", None) or error
            msg = f"The catalogue {self._path} can't be used now: {reason}."
            raise Unavailable(msg, code="catalogue_unavailable") from error


def _begin(connection: Connection) -> None:
    # A write takes the lock at once: two readers that both turn writers would fail as busy.
    write = connection.get_execution_options().get(_WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _prepare_file(cursor: Any, path: Path) -> None:
    """Refuse another program's file; turn the write-ahead log on."""
    cursor.execute("PRAGMA application_id")
    (found,) = cursor.fetchone()
    cursor.execute("SELECT count(*) FROM sqlite_master")
    (tables,) = cursor.fetchone()
    if tables and found != APPLICATION_ID:
        msg = f"{path} is another program's SQLite database; expected a catalogue or no file."
        raise Unavailable(msg, code="catalogue_unavailable")
    cursor.execute(f"PRAGMA application_id={APPLICATION_ID}")
    cursor.execute("PRAGMA journal_mode=WAL")
    (mode,) = cursor.fetchone()
    if mode != "wal":
        msg = f"SQLite can't keep a write-ahead log for {path} (journal mode {mode})."
        raise Unavailable(msg, code="catalogue_unavailable")


def _migrate(connection: Connection, path: Path) -> None:
    config = Config()
    config.set_main_option("script_location", "softprompt_serve.registry:migrations")
    config.attributes["connection"] = connection
    try:
        with connection.begin():
            command.upgrade(config, "head")
    except CommandError as error:
        msg = f"The catalogue {path} was written by a later release of softprompt-serve: {error}."
        raise Unavailable(msg, code="catalogue_unavailable") from error


def _path_of(url: str) -> Path:
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.get_backend_name() != "sqlite" or not parsed.database:
        msg = f"{url!r} is no URL of a SQLite file; expected sqlite:///PATH."
        raise BadRequest(msg, code="invalid_setting", param="SOFTPROMPT_DATABASE_URL")
    if parsed.database.startswith((":memory:", "file:")) or parsed.query:
        msg = f"{url!r} has options or is in memory; expected sqlite:///PATH."
        raise BadRequest(msg, code="invalid_setting", param="SOFTPROMPT_DATABASE_URL")
    return Path(parsed.database).expanduser().absolute()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; the system lets go of it when a process dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + MIGRATION_SECONDS
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    msg = f"Another process holds {path} for more than {MIGRATION_SECONDS:.0f} s."
                    raise Unavailable(msg, code="catalogue_unavailable") from error
                time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)
