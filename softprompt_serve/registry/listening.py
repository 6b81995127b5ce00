"""PostgreSQL tells of changes: ``NOTIFY`` in the transaction that makes one, ``LISTEN`` in a thread.

A notification is delivered when its transaction has committed, to whoever listens at that moment.
It is a hint to look sooner than the next poll, never the only way to learn of a change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import psycopg
from sqlalchemy import func, select

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event

    from sqlalchemy.orm import Session

CHANNEL: Final = "softprompt_serve"
RETRY_SECONDS: Final = 1.0
# How soon a listener notices that it should end.
_TURN_SECONDS: Final = 0.25


def announce(session: Session, revision: int) -> None:
    """Tell listeners of a change as soon as it is committed; a database without them stays quiet."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_notify(CHANNEL, str(revision))))


def listen(
    connect: Callable[[], psycopg.Connection[Any]], wake: Callable[[], None], ended: Event
) -> None:
    """Call ``wake`` for each change until ``ended``; a lost connection is made again."""
    while not ended.is_set():
        try:
            with connect() as connection:
                connection.execute(f"LISTEN {CHANNEL}")
                wake()  # for what changed while nobody listened
                while not ended.is_set():
                    for _ in connection.notifies(timeout=_TURN_SECONDS, stop_after=1):
                        wake()
        except psycopg.Error:
            # Whoever polls sees and says what is wrong.
            ended.wait(RETRY_SECONDS)
