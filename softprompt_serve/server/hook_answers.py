"""What a webhook's question is answered with, from what is known of a release. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from softprompt_serve.registry.states import MOVING, only_arm
from softprompt_serve.rollout.progress import LIVE

if TYPE_CHECKING:
    from softprompt_serve.server.rollout_shapes import RolloutOut


@dataclass(frozen=True, slots=True)
class Answer:
    """Yes, or no with a stable code; and why."""

    reason: str
    yes: bool = False
    code: str = "hook_not_ready"


@dataclass(frozen=True, slots=True)
class Release:
    """A candidate on its way.

    Attributes:
        prompt: the prompt's name.
        candidate: the version's name.
        resident: whether this server's workers hold it.
        rollout: the prompt's rollout as it is everywhere.
        undone: whether the rollout is back from a state in which the candidate had an arm.
    """

    prompt: str
    candidate: str
    resident: bool
    rollout: RolloutOut
    undone: bool

    @property
    def settled_on(self) -> str | None:
        """The version that has all of the split, unless steps are about to change that."""
        return None if self.rollout.state in MOVING else only_arm(self.rollout.weights)

    @property
    def takes_part(self) -> bool:
        """Whether the candidate is what a rollback would take traffic from."""
        rollout = self.rollout
        if rollout.state in {"none", "rolled_back"} or self.candidate not in rollout.weights:
            return False
        if self.settled_on == self.candidate == rollout.production:
            return rollout.state == "promoted"
        return rollout.state in MOVING or rollout.weights[self.candidate] > 0

    @property
    def broken(self) -> str:
        """The gates that the candidate breaks, as the controller found last; "" if none."""
        found = self.rollout.findings or {}
        if self.rollout.state not in LIVE or found.get("candidate") != self.candidate:
            return ""  # what was found before a promotion was known to whoever promoted
        return "; ".join(
            f"`{gate['gate']}`" + (f" for {gate['cohort']}" if gate["cohort"] else "")
            for gate in found.get("gates", ())
            if gate["broken"]
        )


def may_begin(release: Release) -> Answer:
    """``confirm-rollout``: there is something to release, and it could answer here."""
    if release.settled_on == release.candidate == release.rollout.production:
        return Answer(f"{release.candidate} is production already; there is nothing to release.")
    return is_there(release)


def is_there(release: Release) -> Answer:
    """``pre-rollout``: the candidate could answer here, and there is something to go back to."""
    candidate, production = release.candidate, release.rollout.production
    if not release.resident:
        return Answer(f"{release.prompt}@{candidate} is not resident here.")
    if production is None:
        return Answer(f"{release.prompt} has no production that {candidate} could follow.")
    return Answer(f"{candidate} is resident; production is {production}.", yes=True)


def is_well(release: Release) -> Answer:
    """``rollout``: every live replica follows, and nothing speaks against going on."""
    rollout = release.rollout
    if rollout.state == "none":
        return Answer(f"{release.prompt} has no rollout.")
    if rollout.state in {"paused", "rolled_back"}:
        state = rollout.state.replace("_", " ")
        return Answer(f"The rollout of {release.prompt} is {state}: {rollout.reason}")
    if release.broken:
        return Answer(f"{release.candidate} breaks {release.broken}.", code="hook_gate_broken")
    if not rollout.applied:
        behind = ", ".join(replica.name for replica in rollout.observed if not replica.applied)
        why = rollout.note or f"Not there: {behind or 'no replica is known to be alive'}."
        return Answer(f"Generation {rollout.generation} is not applied. {why}")
    return Answer(f"Generation {rollout.generation} is applied; {rollout.state}.", yes=True)


def may_be_promoted(release: Release) -> Answer:
    """``confirm-promotion``: all is well, and no step of ours is left."""
    rollout, well = release.rollout, is_well(release)
    if not well.yes:
        return well
    if release.candidate not in rollout.weights:
        arms = ", ".join(rollout.weights)
        return Answer(f"{release.candidate} is not in the rollout, whose arms are {arms}.")
    if rollout.state in MOVING:
        step = rollout.step
        where = f"in step {step.index + 1} of {step.of}" if step else "before its first step"
        return Answer(f"The rollout of {release.prompt} is {where}.")
    return well


def shall_go(release: Release) -> Answer:
    """``rollback``: yes means that the candidate shall be rolled back."""
    if release.undone:
        return Answer(f"{release.candidate} was rolled back: {release.rollout.reason}", yes=True)
    if release.broken:
        return Answer(f"{release.candidate} breaks {release.broken}.", yes=True)
    why = f"{release.candidate} was not rolled back, and breaks no gate."
    return Answer(why, code="hook_no_rollback")
