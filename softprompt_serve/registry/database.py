"""The catalogue's database: opened, migrated, and each transaction guarded.

It is a SQLite file (``sqlite.py``) or PostgreSQL (``postgres.py``); nobody else needs to know.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, Self
from urllib.parse import quote

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DataError, SQLAlchemyError
from sqlalchemy.orm import Session

from softprompt_serve.errors import BadRequest, Unavailable
from softprompt_serve.registry import schema
from softprompt_serve.registry.postgres import DRIVERS, PostgresServer
from softprompt_serve.registry.sqlite import SqliteFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from sqlalchemy import Connection, Engine


class Backend(Protocol):
    """What differs between the two.

    Attributes:
        label: its name in messages, without a password.
        errors: what its driver raises where SQLAlchemy does not stand between.
        reads: an engine whose transactions see one state.
        writes: an engine whose transactions change it.
    """

    label: str
    errors: tuple[type[Exception], ...]

    @property
    def reads(self) -> Engine:
        """See above."""

    @property
    def writes(self) -> Engine:
        """See above."""

    def preparing(self) -> AbstractContextManager[Connection]:
        """A transaction to migrate in, while no other process does."""

    def begin_write(self, session: Session, *, alone: bool) -> None:
        """Begin a change; with ``alone``, once all others that are alone have ended."""

    def check(self) -> None:
        """Raise ``Unavailable`` if what was read or written is not the catalogue any more."""

    def clock(self, session: Session) -> float:
        """Unix time."""

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """See :meth:`Database.subscribe`."""

    def close(self) -> None:
        """Close all connections."""


def url_of(path: Path) -> str:
    """The URL of a catalogue file, with the characters that mean something in URLs escaped."""
    return f"sqlite:///{quote(str(path.expanduser().absolute()))}"


class Database:
    """An open catalogue; one per process, usable from any thread."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @classmethod
    def open(cls, url: str) -> Self:
        """Create the tables if need be, or bring them up to date; several may do so at once.

        Raises:
            BadRequest: ``code="invalid_setting"``: not a URL of a SQLite file or of PostgreSQL.
            Unavailable: ``code="catalogue_unavailable"``: not to be reached or opened, locked,
                damaged, another program's, or written by a later release.
        """
        database = cls(_backend_of(url))
        try:
            database._upgrade()
        except BaseException:
            database.close()
            raise
        return database

    @classmethod
    def migrate(cls, url: str) -> schema.Schema:
        """As :meth:`open`, and that is all; returns where the tables were before."""
        database = cls(_backend_of(url))
        try:
            return database._upgrade()
        finally:
            database.close()

    @classmethod
    def look(cls, url: str) -> schema.Schema:
        """Where a catalogue's tables stand; creates and changes nothing.

        Raises:
            BadRequest, Unavailable: as :meth:`open`; a SQLite file must be there.
        """
        database = cls(_backend_of(url))
        backend = database._backend
        try:
            with database._guarded(), backend.reads.connect() as connection:
                return schema.look(connection, backend.label)
        finally:
            database.close()

    def close(self) -> None:
        """Close all connections, and tell no subscriber any more."""
        self._backend.close()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that sees one state of the catalogue.

        Raises:
            Unavailable: ``code="catalogue_unavailable"``, within seconds.
        """
        with self._guarded(), Session(self._backend.reads) as session, session.begin():
            yield session
            # Last, because the first read of a new connection is what opens SQLite's log.
            self._backend.check()

    @contextmanager
    def writing(self, *, alone: bool = True) -> Iterator[Session]:
        """A session whose changes are committed, durably, when the block ends without error.

        Changes wait for each other, so that what one has read stays true until it commits. What
        touches rows of its own only (a heartbeat) says ``alone=False`` and waits for nobody.

        Raises:
            Unavailable: ``code="catalogue_unavailable"``, within seconds; nothing was changed. If
                PostgreSQL went away during the commit itself, the change may be there.
            BadRequest: a value that the database can't hold, such as a text with a NUL.
        """
        with self._guarded(), Session(self._backend.writes) as session, session.begin():
            self._backend.begin_write(session, alone=alone)
            yield session
            session.flush()
            self._backend.check()

    def clock(self, session: Session) -> float:
        """Unix time by the database's clock, the one that all replicas have in common."""
        return self._backend.clock(session)

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Have ``wake`` called, from another thread, soon after each change by anybody.

        A hint: it may come late, too often, or never, as with SQLite. Poll as well.

        Returns:
            What ends the subscription; it doesn't wait.
        """
        return self._backend.subscribe(wake)

    def _upgrade(self) -> schema.Schema:
        with self._guarded(), self._backend.preparing() as connection:
            return schema.upgrade(connection, self._backend.label)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        errors: tuple[type[Exception], ...] = (SQLAlchemyError, *self._backend.errors)
        try:
            yield
        except DataError as error:
            msg = f"The catalogue can't hold this: {_reason(error)}."
            raise BadRequest(msg) from error
        except errors as error:
            msg = f"The catalogue {self._backend.label} can't be used now: {_reason(error)}."
            raise Unavailable(msg, code="catalogue_unavailable") from error


def _reason(error: Exception) -> str:
    """What the driver says, on one line; without the statement and its values."""
    return " ".join(str(getattr(error, "orig", None) or error).split()).rstrip(".?")


def _backend_of(url: str) -> Backend:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        parsed = None
    if parsed is not None and parsed.drivername in DRIVERS:
        return PostgresServer(parsed)
    if parsed is not None and parsed.drivername == "sqlite":
        return SqliteFile(parsed)
    # Not shown: what could not be parsed may hold a password anywhere.
    msg = (
        "This is no URL of a catalogue; expected sqlite:///PATH or "
        "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with special characters percent-encoded."
    )
    raise BadRequest(msg, code="invalid_setting", param="SOFTPROMPT_DATABASE_URL")
