"""What replicas have counted of a rollout, so that any of them can judge it.

Each replica writes rows of its own and nobody else's; they hold all that it has counted since the
epoch began, so writing one twice counts nothing twice, and a dead replica's rows still count.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, select

from softprompt_serve.registry.tables import TallyRow, to_json
from softprompt_serve.registry.upsert import upsert

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from softprompt_serve.registry.database import Database


@dataclass(frozen=True, slots=True)
class Tally:
    """What one replica has counted of one version and cohort since an epoch began.

    Attributes:
        prompt: the prompt's name.
        epoch: the rollout's generation at which the comparison began.
        replica: the id of the replica that counted.
        kind: ``requests`` or ``shadow``.
        version: the version's name.
        cohort: the cohort's label.
        data: counts and histograms, as JSON data.
    """

    prompt: str
    epoch: int
    replica: str
    kind: str
    version: str
    cohort: str
    data: Mapping[str, Any]


class Tallies:
    """Every method may raise ``Unavailable`` (``code="catalogue_unavailable"``)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def write(self, tallies: Iterable[Tally]) -> None:
        """Replace rows as a whole, all or none of them."""
        found = list(tallies)
        if not found:
            return
        with self._database.writing(alone=False) as session:
            now = self._database.clock(session)
            upsert(session, TallyRow, [_row(tally, now) for tally in found])

    def read(self, prompt: str, kind: str, epoch: int) -> list[Tally]:
        """What all replicas have counted, those that are gone too."""
        query = (
            select(TallyRow)
            .where(TallyRow.prompt == prompt, TallyRow.kind == kind, TallyRow.epoch == epoch)
            .order_by(TallyRow.replica, TallyRow.version, TallyRow.cohort)
        )
        with self._database.reading() as session:
            return [_tally(row) for row in session.scalars(query)]

    def prune(self, prompt: str, keep_from_epoch: int) -> None:
        """Forget what was counted before an epoch."""
        with self._database.writing(alone=False) as session:
            session.execute(
                delete(TallyRow).where(TallyRow.prompt == prompt, TallyRow.epoch < keep_from_epoch)
            )


def _row(tally: Tally, now: float) -> dict[str, Any]:
    return {
        "prompt": tally.prompt,
        "epoch": tally.epoch,
        "replica": tally.replica,
        "kind": tally.kind,
        "version": tally.version,
        "cohort": tally.cohort,
        "data": to_json(tally.data),
        "at": now,
    }


def _tally(row: TallyRow) -> Tally:
    data = MappingProxyType(json.loads(row.data))
    return Tally(row.prompt, row.epoch, row.replica, row.kind, row.version, row.cohort, data)
