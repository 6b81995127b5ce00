"""Insert a row or replace what is there, in one statement, on either database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import inspect
from sqlalchemy.dialects import postgresql, sqlite

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from sqlalchemy.orm import Session

    from softprompt_serve.registry.tables import Base

Insert = postgresql.Insert | sqlite.Insert
_INSERTS: Final[dict[str, Any]] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}


def inserting(session: Session, table: type[Base]) -> Insert:
    """The session's own kind of INSERT, which knows ``on_conflict_do_update``."""
    insert: Insert = _INSERTS[session.get_bind().dialect.name](table)
    return insert


def upsert(
    session: Session,
    table: type[Base],
    rows: Sequence[Mapping[str, Any]],
    *,
    keep: Collection[str] = (),
) -> None:
    """Write whole rows by their primary key; of rows that exist, the columns ``keep`` stay."""
    if not rows:
        return
    statement = inserting(session, table)
    key = [column.name for column in inspect(table).primary_key]
    replaced = {name: statement.excluded[name] for name in rows[0] if name not in {*key, *keep}}
    statement = statement.on_conflict_do_update(index_elements=key, set_=replaced)
    session.execute(statement, list(rows))
