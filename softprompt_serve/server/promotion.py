"""Promotions: a change that promotes a version is made once the version has been judged.

The registry says that a change would promote (:class:`~softprompt_serve.registry.guard.Ungranted`);
here the evidence is read, and the change is made again with what came of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from softprompt_serve.errors import Conflict
from softprompt_serve.registry.guard import Pass, Ungranted
from softprompt_serve.registry.policies import tag_of
from softprompt_serve.release.verdict import to_json
from softprompt_serve.server.verdicts import judged

if TYPE_CHECKING:
    from collections.abc import Callable

    from softprompt_serve.release.verdict import Verdict
    from softprompt_serve.server.service import Service
    from softprompt_serve.server.verdicts import Judged

Made = TypeVar("Made")

_TRIES: Final = 5
_NAMED: Final = 5


class GatesFailed(Conflict):
    """A version that may not be promoted; ``details`` is the verdict, gate by gate."""

    default_code = "gates_failed"

    def __init__(self, label: str, verdict: Verdict) -> None:
        failed, gates = verdict.failed, verdict.gates
        said = [f"{gate.name}: {gate.found}; wanted {gate.wanted}. {gate.hint}" for gate in failed]
        rest = f" … and {len(said) - _NAMED} more" if len(said) > _NAMED else ""
        super().__init__(
            f"{label} fails {len(failed)} of {len(gates)} gates. {' '.join(said[:_NAMED])}{rest} "
            "To promote it all the same, say `force` with a reason."
        )
        self.details = to_json(verdict)


@dataclass(frozen=True, slots=True)
class Force:
    """Somebody promotes a version whatever the gates say, and says why.

    Attributes:
        reason: why.
        past: the gates that this person knows to fail, as :func:`failing` names them; None is any.
    """

    reason: str
    past: str | None = None


def failing(found: Judged) -> str:
    """A digest of the policy and of the gates that fail; what each of them found is not in it."""
    names = sorted(gate.name for gate in found.verdict.failed)
    text = json.dumps([tag_of(found.held.policy), found.version.digest, names])
    return hashlib.sha256(text.encode()).hexdigest()


async def admitted(
    service: Service, prompt: str, attempt: Callable[[Pass | None], Made], force: Force | None
) -> Made:
    """Make a change, with a pass if it promotes.

    Args:
        service: whose evidence counts.
        prompt: the prompt's name.
        attempt: makes the change, in a thread.
        force: by whom the gates are overruled, or None.

    Raises:
        GatesFailed: nothing has changed.
        SoftpromptError: what ``attempt`` raises.
    """
    granted: Pass | None = None
    for _ in range(_TRIES):
        try:
            return await asyncio.to_thread(attempt, granted)
        except Ungranted as asked:
            await service.feed.refresh()
            granted = await asyncio.to_thread(grant, service, prompt, asked.version, force)
    msg = f"{prompt} or its policy was changed again and again while this was judged; try again."
    raise Conflict(msg, code="promotion_unsettled")


def grant(service: Service, prompt: str, version: str, force: Force | None = None) -> Pass:
    """Judge a version by the policy in force. Blocking.

    Raises:
        GatesFailed: it failed, and nobody forces it, or not past what fails now.
        NotFound: the prompt or the version is gone.
    """
    subject = service.find_version(prompt, version)
    found = judged(service, service.find_prompt(prompt), subject)
    tag, verdict = tag_of(found.held.policy), found.verdict
    if verdict.passed:
        return Pass(version, subject.digest, tag)
    if force is None or force.past not in {None, failing(found)}:
        raise GatesFailed(subject.label, verdict)
    failed = tuple(gate.name for gate in verdict.failed)
    return Pass(version, subject.digest, tag, failed, force.reason)
