"""The catalogue in a SQLite file, for one machine.

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
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from sqlalchemy import Connection, QueuePool, create_engine, event

from softprompt_serve.errors import BadRequest, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import URL
    from sqlalchemy.orm import Session

# "SPsv": written into the file's header, so that no other program's database is migrated.
APPLICATION_ID: Final = 0x53507376
BUSY_SECONDS: Final = 5.0
MIGRATION_SECONDS: Final = 60.0
_WRITE: Final = "softprompt_write"


class SqliteFile:
    """A ``database.Backend`` over one file; usable from any thread."""

    errors: tuple[type[Exception], ...] = (sqlite3.Error,)

    def __init__(self, url: URL) -> None:
        self._path = _path_of(url)
        self._wal = self._path.with_name(self._path.name + "-wal")
        self._identity: tuple[int, int] | None = None
        self.label = str(self._path)
        self.reads = create_engine(
            "sqlite://",
            creator=self._connect,
            poolclass=QueuePool,
            pool_size=4,
            max_overflow=4,
            pool_timeout=BUSY_SECONDS,
            hide_parameters=True,
        )
        event.listen(self.reads, "begin", _begin)
        self.writes = self.reads.execution_options(**{_WRITE: True})

    @contextmanager
    def preparing(self) -> Iterator[Connection]:
        """Create the file if need be; a lock file beside it orders processes that start at once."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self._path.with_name(self._path.name + ".lock")):
                # Only here may the file come into being; connections open it as existing.
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
                self._identity = self._found()
                raw = self.reads.raw_connection()
                try:
                    _prepare_file(raw.cursor(), self._path)
                finally:
                    raw.close()
                with self.writes.connect() as connection, connection.begin():
                    yield connection
        except OSError as error:
            msg = f"Can't open the catalogue {self._path}: {error.strerror or error}."
            raise Unavailable(msg, code="catalogue_unavailable") from error

    def begin_write(self, session: Session, *, alone: bool) -> None:  # noqa: ARG002 - always so
        """Take the file's write lock, which is every write's here, ``alone`` or not."""
        session.connection()
        self.check()

    def check(self) -> None:
        """Ask inside a transaction that has read or written: only then must the log exist too."""
        if self._found() != self._identity or not self._wal.exists():
            msg = (
                f"The catalogue {self._path} was removed or replaced while it was open; nothing "
                "was changed. Put it back and restart."
            )
            raise Unavailable(msg, code="catalogue_unavailable")

    def clock(self, session: Session) -> float:  # noqa: ARG002 - it has no server
        """The machine's clock, which all who share the file have in common."""
        return time.time()

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:  # noqa: ARG002 - never
        """Nobody tells: who follows a file has to look."""
        return lambda: None

    def close(self) -> None:
        """Close all connections."""
        self.reads.dispose()

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


def _path_of(url: URL) -> Path:
    shown = url.render_as_string()
    if not url.database:
        msg = f"{shown} names no file; expected sqlite:///PATH."
        raise BadRequest(msg, code="invalid_setting", param="SOFTPROMPT_DATABASE_URL")
    if url.database.startswith((":memory:", "file:")) or url.query:
        msg = f"{shown} has options or is in memory; expected sqlite:///PATH."
        raise BadRequest(msg, code="invalid_setting", param="SOFTPROMPT_DATABASE_URL")
    return Path(url.database).expanduser().absolute()


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
