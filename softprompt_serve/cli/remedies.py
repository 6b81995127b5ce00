"""What a policy has done where a version's scores have got worse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from softprompt_serve.cli.client import rollout_path
from softprompt_serve.release.verdict import short

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from softprompt_serve.cli.client import Api
    from softprompt_serve.release.policy import Policy
    from softprompt_serve.release.shift import Shift

_MOVING: Final = frozenset({"pending", "progressing", "paused"})
_LONGEST_REASON: Final = 500


@dataclass(frozen=True, slots=True)
class Remedy:
    """A change of a prompt's traffic.

    Attributes:
        verb: ``promote`` gives ``version`` everything; ``rollback`` ends a rollout.
        version: who gets everything, or whose rollout is ended.
        instead_of: who loses it.
        reason: why, for the audit.
    """

    verb: Literal["promote", "rollback"]
    version: str
    instead_of: str
    reason: str


def remedy_of(
    policy: Policy,
    baseline: str | None,
    shifts: Sequence[Shift],
    rollout: Mapping[str, Any],
    run: str,
) -> Remedy | None:
    """What is to be done, or None.

    Where ``production`` has got worse the baseline gets all traffic, whatever rollout there is: to
    end that one would leave all traffic with what has got worse. Where only a rollout's candidate
    has, the rollout is rolled back.

    Args:
        policy: the prompt's.
        baseline: the version that the policy's baseline stands for.
        shifts: what a rerun found.
        rollout: of ``GET …/rollout``.
        run: id of the rerun, for the reason.
    """
    if policy.watch.on_shift != "rollback":
        return None
    worse: dict[str, list[Shift]] = {}
    for shift in shifts:
        if shift.direction == "worse" and policy.watch.counts(shift.dataset):
            worse.setdefault(shift.version, []).append(shift)
    production, candidate = rollout["production"], rollout["candidate"]
    if production in worse and baseline is not None and production != baseline:
        return Remedy("promote", baseline, production, _reason(worse[production], run))
    if candidate in worse and candidate != baseline and rollout["state"] in _MOVING:
        return Remedy("rollback", candidate, candidate, _reason(worse[candidate], run))
    return None


def carry_out(api: Api, prompt: str, remedy: Remedy, generation: int) -> None:
    """Make the change, if the rollout is still at that generation.

    Raises:
        ApiError, Unreachable: from the server; such as ``stale_generation``.
    """
    body = {"reason": remedy.reason}
    if remedy.verb == "promote":
        body["version"] = remedy.version
    path = rollout_path(prompt, remedy.verb)
    api.change("POST", path, json_body=body, if_match=generation)


def _reason(worse: Sequence[Shift], run: str) -> str:
    first = min(worse, key=lambda shift: shift.found.difference)
    where = "" if first.cohort == "all" else f" in {first.cohort}"
    more = f", and {len(worse) - 1} more" if len(worse) > 1 else ""
    p_value = min(test.adjusted for test in first.tests)
    said = (
        f"eval watch: {first.version} has got worse by {first.evaluator} on {first.dataset}{where}, "
        f"{first.found.against_mean:.3f} to {first.found.candidate_mean:.3f} on "
        f"{first.found.items} items, p {p_value:.2g}{more}; run {short(run)}."
    )
    return said if len(said) <= _LONGEST_REASON else said[: _LONGEST_REASON - 1] + "…"
