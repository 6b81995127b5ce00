"""The schema of the catalogue's database: which revision it is at, and the way to the newest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError

from softprompt_serve.errors import Unavailable

if TYPE_CHECKING:
    from sqlalchemy import Connection


@dataclass(frozen=True, slots=True)
class Schema:
    """Where a database stands.

    Attributes:
        label: the catalogue's name in messages, without a password.
        found: the revision that its tables were found at; None if it has none.
        newest: the revision that this release needs.
    """

    label: str
    found: str | None
    newest: str

    @property
    def current(self) -> bool:
        """Whether there was nothing to do."""
        return self.found == self.newest


def look(connection: Connection, label: str) -> Schema:
    """Read the revision; changes nothing.

    Raises:
        Unavailable: ``code="catalogue_unavailable"``: a later release wrote it.
    """
    script = ScriptDirectory.from_config(_config())
    newest = script.get_current_head()
    assert newest is not None  # noqa: S101 - this package ships revisions
    found = MigrationContext.configure(connection).get_current_revision()
    try:
        if found is not None:
            script.get_revision(found)
    except CommandError as error:
        msg = f"The catalogue {label} was written by a later release of softprompt-serve: {error}."
        raise Unavailable(msg, code="catalogue_unavailable") from error
    return Schema(label, found, newest)


def upgrade(connection: Connection, label: str) -> Schema:
    """Bring the tables to the newest revision; returns where they were before.

    Raises:
        Unavailable: ``code="catalogue_unavailable"``: a later release wrote it.
    """
    before = look(connection, label)
    config = _config()
    config.attributes["connection"] = connection
    if not before.current:
        command.upgrade(config, before.newest)
    return before


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "softprompt_serve.registry:migrations")
    return config
