"""A prompt's traffic inside one transaction, and the one way to change it."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from softprompt_serve.errors import Conflict, NotFound, Stale
from softprompt_serve.registry.audit import Change, step
from softprompt_serve.registry.lookup import aliases_of, live_versions
from softprompt_serve.registry.snapshot import PRODUCTION
from softprompt_serve.registry.states import MOVING, only_arm
from softprompt_serve.registry.tables import AliasRow, RolloutHistoryRow, RolloutRow, now, to_json
from softprompt_serve.rollout.resolve import Names, candidate_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.orm import Session

    from softprompt_serve.registry.snapshot import Rollout, RolloutState
    from softprompt_serve.registry.states import Next
    from softprompt_serve.registry.tables import VersionRow
    from softprompt_serve.rollout.spec import RolloutSpec

NO_ROLLOUT = "rollout_not_found"


class Standing:
    """What a prompt's traffic is now; read once, then perhaps changed once.

    Attributes:
        prompt: the prompt's name.
        names: its versions and aliases.
        production: the version that ``production`` stands for, or None.
        rollout: the rollout's state, or None if there never was one.
        rows: the versions that are not removed, by name, oldest first.
    """

    def __init__(
        self,
        session: Session,
        prompt: str,
        names: Names,
        row: RolloutRow | None,
        rows: Mapping[str, VersionRow],
    ) -> None:
        self.prompt = prompt
        self.rows = rows
        self.names = names
        self.production = names.aliases.get(PRODUCTION)
        self.rollout: Rollout | None = None if row is None else row.value()
        self._session = session
        self._row = row

    @classmethod
    def of(cls, session: Session, prompt: str) -> Self:
        """Read it.

        Raises:
            NotFound: ``prompt_not_found``.
        """
        rows = live_versions(session, prompt)
        aliases = {row.name: row.version for row in aliases_of(session, prompt)}
        unwanted = frozenset(name for name, row in rows.items() if not row.wanted)
        names = Names(prompt, tuple(rows), aliases, unwanted)
        return cls(session, prompt, names, session.get(RolloutRow, prompt), rows)

    @property
    def spec(self) -> RolloutSpec | None:
        """The document, or None if the prompt's traffic is ``production``'s."""
        return None if self.rollout is None else self.rollout.spec

    @property
    def state(self) -> RolloutState | None:
        """Where the rollout stands, or None if there is no document."""
        return None if self.rollout is None or self.spec is None else self.rollout.state

    @property
    def generation(self) -> int:
        """Of the rollout; 0 if there never was one."""
        return 0 if self.rollout is None else self.rollout.generation

    @property
    def only_arm(self) -> str | None:
        """The version that has all of the split, or None where none has."""
        if self.rollout is None or self.rollout.spec is None:
            return self.production
        return only_arm(self.rollout.weights)

    @property
    def settled(self) -> bool:
        """Whether one version has all of the split, and no progression is about to change that."""
        return self.only_arm is not None and self.state not in MOVING

    def present(self) -> Rollout:
        """The rollout's state, where there is one.

        Raises:
            NotFound: ``rollout_not_found``.
        """
        if self.rollout is None:
            msg = f"{self.prompt} never had a rollout."
            raise NotFound(msg, code=NO_ROLLOUT)
        return self.rollout

    def candidate(self) -> str:
        """The one arm that is not production's.

        Raises:
            Conflict: ``no_candidate``.
        """
        found = None if self.spec is None else candidate_of(self.spec, self.production)
        if found is None:
            arms = ", ".join(arm.version for arm in self.spec.arms) if self.spec else "none"
            msg = (
                f"The arms of {self.prompt} are: {arms}, and `{PRODUCTION}` is "
                f"{self.production or 'not set'}; that is not one candidate. Name the version."
            )
            raise Conflict(msg, code="no_candidate", param="version")
        return found

    def check(self, if_match: int | None) -> None:
        """Refuse a change that was meant for another generation.

        Raises:
            Stale: ``stale_generation``.
        """
        if if_match is not None and if_match != self.generation:
            msg = (
                f"The rollout of {self.prompt} is at generation {self.generation}, not {if_match}: "
                "somebody else changed it. Read it again."
            )
            raise Stale(msg, code="stale_generation", param="If-Match")

    def check_settled(self) -> None:
        """Refuse to move ``production`` under arms that are being compared.

        Raises:
            Conflict: ``rollout_active``.
        """
        if self.spec is not None and not self.settled:
            msg = (
                f"{self.prompt} has a rollout in which several arms have a share; promote one, "
                f"roll back or remove the rollout before `{PRODUCTION}` is moved."
            )
            raise Conflict(msg, code="rollout_active", param="alias")

    def enter(
        self, new: Next, actor: str | None, told: Mapping[str, Any] = MappingProxyType({})
    ) -> Rollout:
        """Write the next state: row, history, ``production``, revision and audit.

        ``told`` is what else the audit shall say.
        """
        self._remember()
        row = self._row
        if row is None:
            row = self._row = RolloutRow(prompt=self.prompt, generation=0, epoch=0)
            self._session.add(row)
        restart = new.restart or self.spec is None
        row.generation += 1
        row.epoch = row.generation if restart else row.epoch
        row.state, row.reason = new.state, new.reason
        row.spec = None if new.spec is None else new.spec.model_dump_json(exclude_none=True)
        row.weights = to_json(new.weights)
        row.step, row.step_since, row.step_base = new.step, new.step_since, new.step_base
        row.updated_at, row.updated_by = now(), actor
        detail: dict[str, Any] = {
            "generation": row.generation,
            "state": row.state,
            "weights": dict(new.weights),
            "production": new.production,
            "reason": new.reason,
            **told,
        }
        if new.production != self.production:
            detail["previous"] = self.production
            self._move_production(new.production)
        self.rollout, self.production = row.value(), new.production
        self._write_history(new.action, actor)
        step(self._session, Change(actor, f"rollout.{new.action}", self.prompt, "rollout", detail))
        return self.rollout

    def _move_production(self, version: str | None) -> None:
        if version is not None:
            self._session.merge(AliasRow(prompt=self.prompt, name=PRODUCTION, version=version))
        elif (entry := self._session.get(AliasRow, (self.prompt, PRODUCTION))) is not None:
            self._session.delete(entry)

    def _remember(self) -> None:
        """Bring the present state's history up to date: `production` may have moved since."""
        found = self._session.get(RolloutHistoryRow, (self.prompt, self.generation))
        if found is None:
            self._write_history("none", None)
        else:
            found.production, found.settled = self.production, self.settled

    def _write_history(self, action: str, actor: str | None) -> None:
        rollout = self.rollout
        self._session.add(
            RolloutHistoryRow(
                prompt=self.prompt,
                generation=self.generation,
                spec=None if self._row is None else self._row.spec,
                weights=to_json({} if rollout is None else rollout.weights),
                production=self.production,
                settled=self.settled,
                action=action,
                at=now(),
                actor=actor,
            )
        )


def named_by_rollout(session: Session, prompt: str) -> frozenset[str]:
    """Every version that the prompt's rollout names."""
    row = session.get(RolloutRow, prompt)
    spec = None if row is None else row.value().spec
    return frozenset() if spec is None else spec.versions()


def check_unnamed(session: Session, prompt: str, version: str) -> None:
    """Refuse to take away a version that the prompt's rollout names.

    Raises:
        Conflict: ``version_in_rollout``.
    """
    if version in named_by_rollout(session, prompt):
        msg = (
            f"The rollout of {prompt} names {version}; put one without it, or remove the rollout, "
            "first."
        )
        raise Conflict(msg, code="version_in_rollout", param="version")
