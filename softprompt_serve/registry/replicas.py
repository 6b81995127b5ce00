"""Which replicas there are and what each of them serves, by the database's clock."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import delete, select

from softprompt_serve.registry.tables import ReplicaRolloutRow, ReplicaRow
from softprompt_serve.registry.upsert import upsert

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sqlalchemy.orm import Session

    from softprompt_serve.registry.database import Database

FORGET_SECONDS: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Serving:
    """What a replica serves of one rollout.

    Attributes:
        generation: the rollout's generation that it follows.
        resident: names of the rollout's versions that are resident there, sorted.
        since: Unix time since when both are as they are; given by :class:`Replicas`.
    """

    generation: int
    resident: tuple[str, ...]
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Replica:
    """One API server process.

    Attributes:
        id: unique to the process.
        name: what people call it.
        started_at: Unix time of its first sign of life.
        seen_at: Unix time of its last one.
        revision: the catalogue revision that it serves.
        rollouts: what it serves of each rollout, by prompt.
    """

    id: str
    name: str
    started_at: float
    seen_at: float
    revision: int
    rollouts: Mapping[str, Serving]


class Replicas:
    """Every method may raise ``Unavailable`` (``code="catalogue_unavailable"``)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def beat(self, id: str, name: str, revision: int, rollouts: Mapping[str, Serving]) -> None:  # noqa: A002 - the field's name
        """Say that a replica lives and what it serves; forgets those unseen for an hour."""
        with self._database.writing(alone=False) as session:
            now = self._database.clock(session)
            row = {
                "id": id,
                "name": name,
                "started_at": now,
                "seen_at": now,
                "revision": revision,
            }
            upsert(session, ReplicaRow, [row], keep=("started_at",))
            _write_rollouts(session, id, rollouts, now)
            # Replicas that find the same dead one don't wait for each other.
            dead = select(ReplicaRow.id).where(ReplicaRow.seen_at < now - FORGET_SECONDS)
            _forget(session, session.scalars(dead.with_for_update(skip_locked=True)).all())

    def live(self, within: float) -> list[Replica]:
        """Those seen within so many seconds, by name.

        Nor may it be that far ahead: one that ended before the clock went back is not alive.
        """
        with self._database.reading() as session:
            now = self._database.clock(session)
            query = select(ReplicaRow).where(ReplicaRow.seen_at.between(now - within, now + within))
            found = session.scalars(query.order_by(ReplicaRow.name, ReplicaRow.id)).all()
            rollouts = _rollouts(session, [row.id for row in found])
            return [
                Replica(
                    row.id,
                    row.name,
                    row.started_at,
                    row.seen_at,
                    row.revision,
                    MappingProxyType(rollouts[row.id]),
                )
                for row in found
            ]

    def leave(self, id: str) -> None:  # noqa: A002 - the field's name
        """Forget a replica that ends."""
        with self._database.writing(alone=False) as session:
            _forget(session, [id])


def _write_rollouts(
    session: Session, replica: str, rollouts: Mapping[str, Serving], now: float
) -> None:
    before = _rollouts(session, [replica])[replica]
    changed: list[dict[str, Any]] = [
        {
            "replica": replica,
            "prompt": prompt,
            "generation": serving.generation,
            "resident": json.dumps(serving.resident),
            "since": now,
        }
        for prompt, serving in rollouts.items()
        if prompt not in before or _content(before[prompt]) != _content(serving)
    ]
    upsert(session, ReplicaRolloutRow, changed)
    if gone := before.keys() - rollouts.keys():
        session.execute(
            delete(ReplicaRolloutRow).where(
                ReplicaRolloutRow.replica == replica, ReplicaRolloutRow.prompt.in_(gone)
            )
        )


def _content(serving: Serving) -> tuple[int, tuple[str, ...]]:
    return serving.generation, serving.resident


def _rollouts(session: Session, replicas: Collection[str]) -> dict[str, dict[str, Serving]]:
    found: dict[str, dict[str, Serving]] = {replica: {} for replica in replicas}
    query = select(ReplicaRolloutRow).where(ReplicaRolloutRow.replica.in_(replicas))
    for row in session.scalars(query):
        resident = tuple(json.loads(row.resident))
        found[row.replica][row.prompt] = Serving(row.generation, resident, row.since)
    return found


def _forget(session: Session, replicas: Collection[str]) -> None:
    if replicas:
        session.execute(delete(ReplicaRolloutRow).where(ReplicaRolloutRow.replica.in_(replicas)))
        session.execute(delete(ReplicaRow).where(ReplicaRow.id.in_(replicas)))
