"""What passes between an engine and the shadows that run on it; plain data and one protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol, get_args

if TYPE_CHECKING:
    from softprompt_serve.registry.snapshot import Version
    from softprompt_serve.rollout.spec import Shadow
    from softprompt_serve.router.choose import Decision
    from softprompt_serve.telemetry.tracing import ShadowSpan

Cause = Literal[
    "budget_concurrency",
    "budget_tokens",
    "budget_pending",
    "busy",
    "timeout",
    "failed",
    "user_ended",
    "stopped",
]
"""Why a copy came to nothing.

``budget_concurrency``: as many of the prompt's copies are in the engine as its shadow allows;
``budget_tokens``: its tokens per second are used up; ``budget_pending``: this process keeps as many
copies of all prompts as it may; ``busy``: it made room for users; ``timeout``: it took longer than
its shadow allows; ``failed``: an error of the engine's or of ours; ``user_ended``: the user's answer
failed or was cancelled, so there is nothing to compare with; ``stopped``: the server went down.
"""

CAUSES: Final[tuple[Cause, ...]] = get_args(Cause)


@dataclass(frozen=True, slots=True)
class Answer:
    """What an engine answered, the user or a shadow.

    Attributes:
        text: the first choice's text.
        token_ids: its tokens, without the prompt's.
        finish_reason: the engine's, such as ``stop`` or ``length``.
        ttft_seconds: to the first token, or None if that is not known.
        e2e_seconds: to the last one.
        output_tokens: how many were generated.
        tool_calls: ``(name, canonical JSON arguments)`` of each call that the answer asks for; only
            recorded, never made.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str | None
    ttft_seconds: float | None
    e2e_seconds: float
    output_tokens: int
    tool_calls: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """A request to copy.

    Attributes:
        request_id: the engine's id of the user's request; its pair is kept by it.
        decision: which version answers the user.
        candidate: which version answers the copy.
        shadow: what the rollout says about it.
        wants_json: whether a JSON schema, or any JSON object, was asked for.
        source: the engine's own: how to build the request again.
        span: the copy's own, while tracing is on.
    """

    request_id: str
    decision: Decision
    candidate: Version
    shadow: Shadow
    wants_json: bool
    source: object
    span: ShadowSpan | None = None


class ShadowEngine(Protocol):
    """What a runner needs of an engine. Each call may be cancelled, and must then end there too."""

    async def generate(self, job: Job) -> Answer:
        """The candidate's answer to the user's request."""

    async def score(self, job: Job, version: Version, answer: Answer) -> tuple[float, ...]:
        """Natural-log probability of each token of ``answer`` under ``version``, in one prefill."""

    def busy(self) -> bool:
        """Whether users are waiting, so that nothing may run beside them."""
