"""The catalogue in PostgreSQL, for several machines.

Each change locks the row that holds the revision first, so changes happen one after another and
the revision has no gaps; each read sees one state (``REPEATABLE READ``). Every wait is bounded on
both sides: a server that is gone, frozen or cut off is an error within seconds, and a client that
froze in the middle of a change holds up nobody for long.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import psycopg
from sqlalchemy import create_engine, event, func, select, text

from softprompt_serve.registry.listening import listen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from psycopg.abc import PQGen
    from sqlalchemy import URL, Connection
    from sqlalchemy.orm import Session
    from sqlalchemy.pool import ConnectionPoolEntry

DRIVERS: Final = ("postgresql", "postgresql+psycopg")
# Of the advisory lock that orders processes which migrate: "SPsv", as in SQLite's file header.
MIGRATION_LOCK: Final = 0x53507376
MIGRATION_SECONDS: Final = 60.0
CONNECT_SECONDS: Final = 2
ANSWER_SECONDS: Final = 4.0
_SERVER_SETTINGS: Final = {
    "lock_timeout": "2s",
    "statement_timeout": "3s",
    "idle_in_transaction_session_timeout": "10s",
}
_CLIENT_SETTINGS: Final = {
    "application_name": "softprompt-serve",
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 2,
    "tcp_user_timeout": 9000,
}
# A commit is on disk before it returns; a server may be set up otherwise.
_DURABLE: Final = (
    "SELECT set_config('synchronous_commit', 'on', false)"
    " WHERE current_setting('synchronous_commit') = 'off'"
)
_Result = TypeVar("_Result")


class BoundedConnection(psycopg.Connection[Any]):
    """A connection on which no answer is waited for longer than ``answer_seconds``.

    The server's own timeouts don't help where the server itself does not run any more.
    """

    answer_seconds = ANSWER_SECONDS

    def wait(
        self, gen: PQGen[_Result], interval: float = 0.1, timeout: float | None = None
    ) -> _Result:
        """See :meth:`psycopg.Connection.wait`."""
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, self.answer_seconds)
        except psycopg.errors._WaitTimeout as error:  # noqa: SLF001 - it has no public name
            self.close()
            msg = f"no answer within {self.answer_seconds:.0f} s"
            raise psycopg.OperationalError(msg) from error


class PostgresServer:
    """A ``database.Backend`` over a server; usable from any thread."""

    errors: tuple[type[Exception], ...] = (psycopg.Error,)

    def __init__(self, url: URL) -> None:
        self.label = url.set(drivername=DRIVERS[0], query={}).render_as_string()
        self._url = url
        self._closed = False
        self._listeners: list[tuple[threading.Thread, threading.Event]] = []
        self.writes = create_engine(
            "postgresql+psycopg://",
            creator=self._connect,
            # A server may be set up otherwise; what waited for the lock must see what it waited for.
            isolation_level="READ COMMITTED",
            pool_size=4,
            max_overflow=4,
            pool_timeout=ANSWER_SECONDS,
            pool_pre_ping=True,
            hide_parameters=True,
        )
        event.listen(self.writes, "checkin", self._returned)
        self.reads = self.writes.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )

    @contextmanager
    def preparing(self) -> Iterator[Connection]:
        """A transaction under an advisory lock, with a minute for each statement."""
        with self.writes.connect() as connection, connection.begin():
            driver = connection.connection.driver_connection
            assert isinstance(driver, BoundedConnection)  # noqa: S101 - _connect made it
            driver.answer_seconds = MIGRATION_SECONDS + ANSWER_SECONDS
            try:
                for name in ("lock_timeout", "statement_timeout"):
                    connection.execute(text(f"SET LOCAL {name} = '{MIGRATION_SECONDS:.0f}s'"))
                connection.execute(select(func.pg_advisory_xact_lock(MIGRATION_LOCK)))
                yield connection
            finally:
                driver.answer_seconds = ANSWER_SECONDS

    def begin_write(self, session: Session, *, alone: bool) -> None:
        """Lock the revision's row if ``alone``: who comes second sees what the first has made."""
        if alone:
            session.execute(text("SELECT 1 FROM state WHERE id = 1 FOR UPDATE"))

    def check(self) -> None:
        """Nothing: a connection can't come to mean another database."""

    def clock(self, session: Session) -> float:
        """The server's clock."""
        return float(session.scalar(select(func.extract("epoch", func.clock_timestamp()))) or 0.0)

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Listen for ``announce`` on a connection and a thread of its own."""
        ended = threading.Event()
        thread = threading.Thread(
            target=listen,
            args=(lambda: self._connect(autocommit=True), wake, ended),
            name="softprompt-listen",
            daemon=True,
        )
        self._listeners.append((thread, ended))
        thread.start()
        return ended.set

    def close(self) -> None:
        """Close all connections, those in use as soon as they are returned."""
        self._closed = True
        for _, ended in self._listeners:
            ended.set()
        for thread, _ in self._listeners:
            thread.join(CONNECT_SECONDS + ANSWER_SECONDS)
        self.writes.dispose()

    def _connect(self, *, autocommit: bool = False) -> BoundedConnection:
        _, given = self.writes.dialect.create_connect_args(self._url)
        settings = " ".join(f"-c {name}={value}" for name, value in _SERVER_SETTINGS.items())
        # What the URL says comes last and counts.
        given["options"] = f"{settings} {given.get('options', '')}"
        connection = BoundedConnection.connect(
            **{**_CLIENT_SETTINGS, **given},
            autocommit=True,
            # What is prepared breaks behind a pool that hands connections round.
            prepare_threshold=None,
        )
        try:
            connection.execute(_DURABLE)
            connection.autocommit = autocommit
        except BaseException:
            connection.close()
            raise
        return connection

    def _returned(self, _connection: object, record: ConnectionPoolEntry) -> None:
        if self._closed:
            record.invalidate()
