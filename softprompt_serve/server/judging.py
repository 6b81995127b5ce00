"""One look at one rollout: what was counted, the verdict, the change that follows, the findings.

Nothing is remembered here that matters: another server goes on from what is in the database. A
change is made for the generation that was judged; if somebody else was quicker, nothing happens,
and the next look sees what they did.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Final

from softprompt_serve.errors import Conflict, SoftpromptError, Stale, Unavailable
from softprompt_serve.registry.guard import Ungranted
from softprompt_serve.rollout.progress import ACTOR, applied, judge
from softprompt_serve.rollout.tally import REQUESTS, SHADOW
from softprompt_serve.telemetry.operations import operation

if TYPE_CHECKING:
    from collections.abc import Callable

    from softprompt_serve.registry.guard import Pass
    from softprompt_serve.registry.moves import Move
    from softprompt_serve.registry.replicas import Replica
    from softprompt_serve.registry.rollouts import Rollouts, View
    from softprompt_serve.registry.snapshot import Rollout
    from softprompt_serve.registry.tallies import Tallies
    from softprompt_serve.rollout.progress import Verdict
    from softprompt_serve.telemetry.events import Operation

logger = logging.getLogger(__name__)

MEMORY: Final = "memory"
"""Under this name the findings keep what the next look needs."""

_AT_LEAST_SECONDS: Final = 10.0
"""How often findings are noted though they are the same."""


class Judge:
    """Looks at rollouts and moves them on; blocks on the database, so use it in a thread.

    Args:
        rollouts: where rollouts are read and changed.
        tallies: what all replicas counted.
        cohorts: all cohorts that exist.
        grant: judges a version of a prompt by its policy; raises Conflict if it may not be promoted.
    """

    def __init__(
        self,
        rollouts: Rollouts,
        tallies: Tallies,
        cohorts: tuple[str, ...],
        grant: Callable[[str, str], Pass],
    ) -> None:
        self._grant = grant
        self._rollouts = rollouts
        self._tallies = tallies
        self._cohorts = cohorts
        self._troubles: dict[str, str] = {}
        self._made: list[Operation] = []

    def made(self) -> list[Operation]:
        """What was decided, done or failed, since this was last asked."""
        made, self._made = self._made, []
        return made

    def look(self, prompt: str, live: list[Replica]) -> bool:
        """Judge a rollout and do what follows; whether it was changed.

        What is wrong with this one is logged and must not keep others from being looked at.

        Args:
            prompt: its prompt's name.
            live: the replicas that are alive.

        Raises:
            Unavailable: ``catalogue_unavailable``; others would fare no better.
        """
        try:
            view = self._rollouts.view(prompt)
            rollout, production = view.rollout, view.production
            if rollout is None or production is None or view.now is None:
                return False
            verdict = judge(
                rollout,
                production,
                self._tallies.read(prompt, REQUESTS, rollout.epoch),
                self._tallies.read(prompt, SHADOW, rollout.epoch),
                now=view.now,
                cohorts=self._cohorts,
                applied=applied(prompt, rollout, live),
                memory=None if view.findings is None else view.findings[1].get(MEMORY),
            )
            trouble = self._act(prompt, rollout, verdict)
            self._note(prompt, rollout, view, verdict, trouble)
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001 - the other rollouts are judged all the same
            self._log(prompt, f"{type(error).__name__}: {error}")
            return False
        self._log(prompt, trouble)
        return verdict.action != "hold" and trouble is None

    def _act(self, prompt: str, rollout: Rollout, verdict: Verdict) -> str | None:
        """Make the change, if there is one; why it could not be made, or None."""
        if verdict.action == "hold":
            return None
        try:
            with operation(self._made.append, verdict.action, prompt, "", ACTOR) as told:
                told.update({"generation": rollout.generation, "reason": verdict.reason})
                self._change(prompt, rollout.generation, verdict)
        except Unavailable:
            raise
        except Stale:
            logger.info("Rollout of %s: somebody else changed it first.", prompt)
        except SoftpromptError as error:
            return error.message
        else:
            logger.info("Rollout of %s: %s. %s", prompt, verdict.action, verdict.reason)
        return None

    def _change(self, prompt: str, generation: int, verdict: Verdict) -> None:
        rollouts, reason = self._rollouts, verdict.reason
        match verdict.action:
            case "advance":
                move = rollouts.moves.advance(verdict.step, verdict.answers, reason)
                self._admitted(prompt, generation, move, reason)
            case "promote":
                move = rollouts.moves.promote(None, reason)
                self._admitted(prompt, generation, move, reason)
            case "rollback":
                try:
                    rollouts.rollback(prompt, if_match=generation, actor=ACTOR, reason=reason)
                except Conflict as error:  # at least it must get no more traffic than it has
                    why = f"{reason} It can't be rolled back: {error.message}"
                    rollouts.pause(prompt, if_match=generation, actor=ACTOR, reason=why)
            case "pause":
                rollouts.pause(prompt, if_match=generation, actor=ACTOR, reason=reason)
            case "resume":
                rollouts.resume(prompt, if_match=generation, actor=ACTOR, reason=reason)

    def _admitted(self, prompt: str, generation: int, move: Move, reason: str) -> None:
        """Make a change if it promotes nobody, or one who may be; else hold it there, and say why."""
        make = partial(self._rollouts.make, prompt, move, if_match=generation, actor=ACTOR)
        try:
            make()
        except Ungranted as asked:
            try:
                granted = self._grant(prompt, asked.version)
            except Conflict as refused:
                why = f"{reason} Not promoted: {refused.message}"
                self._rollouts.pause(prompt, if_match=generation, actor=ACTOR, reason=why)
            else:
                make(granted=granted)

    def _note(
        self, prompt: str, rollout: Rollout, view: View, verdict: Verdict, trouble: str | None
    ) -> None:
        """Keep what was seen, for people and for the next look."""
        data = {
            "action": verdict.action,
            "reason": verdict.reason,
            "trouble": trouble,
            **verdict.numbers,
            MEMORY: verdict.memory,
        }
        if view.findings is not None and view.now is not None:
            at, before = view.findings
            if before == data and view.now - at < _AT_LEAST_SECONDS:
                return
        self._rollouts.note(prompt, rollout.epoch, data)

    def _log(self, prompt: str, trouble: str | None) -> None:
        """Log each new trouble with a rollout once, not at each look."""
        if trouble is None:
            self._troubles.pop(prompt, None)
        elif self._troubles.get(prompt) != trouble:
            self._troubles[prompt] = trouble
            logger.error("The rollout of %s can't be moved on: %s", prompt, trouble)
