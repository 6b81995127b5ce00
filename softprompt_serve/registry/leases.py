"""Who may act alone among replicas: a named lease with an end, by the database's clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import delete, or_, select

from softprompt_serve.registry.tables import LeaseRow
from softprompt_serve.registry.upsert import inserting

if TYPE_CHECKING:
    from softprompt_serve.registry.database import Database


# What ends that many times later than a lease taken now was taken by a clock that has gone back
# since: nobody may be left to renew it, and it would last for as long as the clock went back.
_AHEAD: Final = 10


class Leases:
    """Every method may raise ``Unavailable`` (``code="catalogue_unavailable"``)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, name: str, holder: str, seconds: float) -> bool:
        """Take a lease or renew it, for ``seconds`` from now; False while another holds it.

        One statement decides, so of several who try at once exactly one gets it.
        """
        with self._database.writing(alone=False) as session:
            now = self._database.clock(session)
            insert = inserting(session, LeaseRow).values(
                name=name, holder=holder, expires_at=now + seconds
            )
            taken = insert.on_conflict_do_update(
                index_elements=["name"],
                set_={"holder": insert.excluded.holder, "expires_at": insert.excluded.expires_at},
                where=or_(
                    LeaseRow.holder == holder,
                    LeaseRow.expires_at <= now,
                    LeaseRow.expires_at > now + _AHEAD * seconds,
                ),
            ).returning(LeaseRow.name)
            return session.scalar(taken) is not None

    def holder(self, name: str) -> str | None:
        """Who holds a lease now, or None."""
        with self._database.reading() as session:
            now = self._database.clock(session)
            return session.scalar(
                select(LeaseRow.holder).where(LeaseRow.name == name, LeaseRow.expires_at > now)
            )

    def release(self, name: str, holder: str) -> None:
        """Give a lease back; nothing happens if ``holder`` does not hold it."""
        with self._database.writing(alone=False) as session:
            session.execute(
                delete(LeaseRow).where(LeaseRow.name == name, LeaseRow.holder == holder)
            )
