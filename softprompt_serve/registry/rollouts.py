"""Rollouts in the catalogue: every change is one transaction, one generation, one audit row.

A change that alters nothing (the same document again) makes no generation. Whoever sends the
generation that they have seen (``if_match``) changes that state or nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from softprompt_serve.errors import NotFound
from softprompt_serve.registry.guard import Ungranted, check_next
from softprompt_serve.registry.moves import Moves
from softprompt_serve.registry.standing import NO_ROLLOUT, Standing
from softprompt_serve.registry.tables import FindingsRow, RolloutHistoryRow, RolloutRow, to_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from softprompt_serve.registry.database import Database
    from softprompt_serve.registry.guard import Pass
    from softprompt_serve.registry.moves import Move
    from softprompt_serve.registry.snapshot import Rollout
    from softprompt_serve.rollout.spec import RolloutSpec
    from softprompt_serve.router.ask import Labels

Findings = tuple[int, float, "Mapping[str, Any]"]
"""Epoch, Unix time, and what the controller saw."""


@dataclass(frozen=True, slots=True)
class View:
    """What the catalogue knows of a prompt's traffic, at one moment.

    Attributes:
        rollout: its state, or None if there never was one.
        production: the version that ``production`` stands for, or None.
        findings: what the controller saw last of this epoch, with its Unix time, or None.
        now: Unix time by the database's clock, or None if that can't be asked.
    """

    rollout: Rollout | None
    production: str | None
    findings: tuple[float, Mapping[str, Any]] | None
    now: float | None


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What a change would need.

    Attributes:
        needs: the versions that it would send traffic to.
        judged: the version that the prompt's gates would be asked about, or None.
    """

    needs: frozenset[str] = frozenset()
    judged: str | None = None


class Rollouts:
    """Reads and changes rollouts; every method is safe to call from any thread.

    Every method may raise ``Unavailable`` (``code="catalogue_unavailable"``), and each but
    :meth:`get`, :meth:`history`, :meth:`note` and :meth:`findings` raises ``NotFound``
    (``prompt_not_found``); each that takes ``if_match`` raises ``Stale`` (``stale_generation``)
    when that is not None and not the present generation, 0 where there never was one. What makes
    a change returns the state now and whether it is a new one.
    """

    def __init__(
        self, database: Database, labels: Labels, *, priced: bool = False, guarded: bool = False
    ) -> None:
        """With ``guarded`` a promotion needs a pass where the prompt's policy asks for one."""
        self._database = database
        self._guarded = guarded
        self.moves = Moves(labels, priced)

    def get(self, prompt: str) -> Rollout | None:
        """The rollout as it is now, or None if there never was one."""
        with self._database.reading() as session:
            row = session.get(RolloutRow, prompt)
            return None if row is None else row.value()

    def view(self, prompt: str) -> View:
        """The rollout with what belongs to it, as of one moment."""
        with self._database.reading() as session:
            standing = Standing.of(session, prompt)
            rollout, row = standing.rollout, session.get(FindingsRow, prompt)
            fresh = row is not None and rollout is not None and row.epoch == rollout.epoch
            findings = (row.at, json.loads(row.data)) if row is not None and fresh else None
            return View(rollout, standing.production, findings, self._database.clock(session))

    def foresee(self, prompt: str, move: Move, *, if_match: int | None) -> Foreseen:
        """What a change would need; raises what the change would, but never ``Ungranted``."""
        with self._database.reading() as session:
            standing = Standing.of(session, prompt)
            standing.check(if_match)
            new = move(session, standing, self._database.clock(session))
            if new is None:
                return Foreseen()
            try:
                if self._guarded:
                    check_next(session, standing, new, None)
            except Ungranted as asked:
                return Foreseen(new.needs(), asked.version)
            return Foreseen(new.needs())

    def make(
        self,
        prompt: str,
        move: Move,
        *,
        if_match: int | None,
        actor: str | None,
        granted: Pass | None = None,
    ) -> tuple[Rollout, bool]:
        """Make a change.

        Raises:
            Ungranted: it would promote a version without a valid pass.
        """
        with self._database.writing() as session:
            standing = Standing.of(session, prompt)
            standing.check(if_match)
            new = move(session, standing, self._database.clock(session))
            if new is None:
                return standing.present(), False
            told = check_next(session, standing, new, granted) if self._guarded else {}
            return standing.enter(new, actor, told), True

    def put(
        self, prompt: str, spec: RolloutSpec, *, if_match: int | None, actor: str | None
    ) -> tuple[Rollout, bool]:
        """Replace the whole document; see :func:`~softprompt_serve.registry.transitions.put`.

        Raises:
            Invalid: as :func:`~softprompt_serve.rollout.resolve.resolve`.
        """
        return self.make(prompt, self.moves.put(spec), if_match=if_match, actor=actor)

    def put_weights(
        self, prompt: str, weights: Mapping[str, int], *, if_match: int | None, actor: str | None
    ) -> tuple[Rollout, bool]:
        """Replace all arms, by version or alias; rules and shadow stay.

        Raises:
            Conflict: ``rollout_progressing``: the progression decides about the weights.
            Invalid: as for the arms of a document; ``param`` is the key.
        """
        return self.make(prompt, self.moves.put_weights(weights), if_match=if_match, actor=actor)

    def promote(
        self,
        prompt: str,
        version: str | None,
        *,
        if_match: int | None,
        actor: str | None,
        reason: str | None = None,
    ) -> tuple[Rollout, bool]:
        """Give a version (or alias), or the one candidate, all of the split and ``production``.

        Raises:
            Conflict: ``no_candidate``: none was named, and there is not exactly one.
            Invalid: ``rollout_unknown_version`` or ``version_unloaded``.
        """
        move = self.moves.promote(version, reason)
        return self.make(prompt, move, if_match=if_match, actor=actor)

    def rollback(
        self, prompt: str, *, if_match: int | None, actor: str | None, reason: str | None = None
    ) -> tuple[Rollout, bool]:
        """Return to the last settled state before this one; once rolled back, nothing changes.

        Raises:
            Conflict: ``nothing_to_roll_back``, ``rollback_target_gone`` or ``version_unloaded``.
        """
        return self.make(prompt, self.moves.rollback(reason), if_match=if_match, actor=actor)

    def pause(
        self, prompt: str, *, if_match: int | None, actor: str | None, reason: str | None = None
    ) -> tuple[Rollout, bool]:
        """Hold the progression where it is; the weights stay.

        Raises:
            Conflict: ``rollout_has_no_steps`` or ``rollout_not_progressing``.
        """
        return self.make(prompt, self.moves.pause(reason), if_match=if_match, actor=actor)

    def resume(
        self, prompt: str, *, if_match: int | None, actor: str | None, reason: str | None = None
    ) -> tuple[Rollout, bool]:
        """Go on after a pause; the step's time begins anew.

        Raises:
            Conflict: ``rollout_has_no_steps`` or ``rollout_not_progressing``.
        """
        return self.make(prompt, self.moves.resume(reason), if_match=if_match, actor=actor)

    def remove(self, prompt: str, *, if_match: int | None, actor: str | None) -> Rollout | None:
        """Have no document any more: all traffic is ``production``'s. None if there never was."""
        try:
            return self.make(prompt, self.moves.remove(), if_match=if_match, actor=actor)[0]
        except NotFound as error:
            if error.code != NO_ROLLOUT:
                raise
            return None

    def advance(
        self, prompt: str, *, if_match: int, step: int, base: int, reason: str, actor: str
    ) -> Rollout:
        """Enter a step; ``base`` counts the candidate's answers in this epoch before it.

        Raises:
            Conflict: ``rollout_has_no_steps`` or ``rollout_not_progressing``, also while paused.
        """
        move = self.moves.advance(step, base, reason)
        return self.make(prompt, move, if_match=if_match, actor=actor)[0]

    def history(self, prompt: str, limit: int = 50) -> list[Mapping[str, Any]]:
        """The newest ``limit`` states first, each as JSON data; generation 0 is before the first."""
        history = RolloutHistoryRow
        query = select(history).where(history.prompt == prompt)
        with self._database.reading() as session:
            rows = session.scalars(query.order_by(history.generation.desc()).limit(limit))
            return [
                {
                    "generation": row.generation,
                    "action": row.action,
                    "at": row.at,
                    "actor": row.actor,
                    "production": row.production,
                    "settled": row.settled,
                    "weights": json.loads(row.weights),
                    "spec": None if row.spec is None else json.loads(row.spec),
                }
                for row in rows
            ]

    def note(self, prompt: str, epoch: int, data: Mapping[str, Any]) -> None:
        """Keep what the controller saw; steps no revision."""
        with self._database.writing() as session:
            at = self._database.clock(session)
            session.merge(FindingsRow(prompt=prompt, epoch=epoch, at=at, data=to_json(data)))

    def findings(self, prompt: str) -> Findings | None:
        """What was noted last: epoch, Unix time and data."""
        with self._database.reading() as session:
            row = session.get(FindingsRow, prompt)
            data = None if row is None else MappingProxyType(json.loads(row.data))
            return None if row is None or data is None else (row.epoch, row.at, data)
