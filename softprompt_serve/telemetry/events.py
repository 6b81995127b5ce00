"""What happened, as one plain value each; :mod:`~softprompt_serve.telemetry.channel` tells it."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from softprompt_serve.registry.snapshot import Snapshot
    from softprompt_serve.router.choose import Decision

COMPLETIONS: Final = "/v1/completions"
RESPONSES: Final = "/v1/responses"

FeedbackKind = Literal["thumbs_up", "thumbs_down", "escalation", "refund", "correction"]
UNHAPPY: Final = frozenset({"thumbs_down", "escalation", "refund", "correction"})
"""Kinds of feedback that find fault with an answer."""

OperationName = Literal[
    "import", "load", "unload", "remove", "alias", "alias_remove", "rollout", "rollout_remove",
    "weights", "advance", "pause", "resume", "promote", "rollback", "evaluation",
    "evaluation_remove", "policy", "policy_remove", "verify",
    "token_create", "token_rotate", "token_revoke",
]  # fmt: skip
"""Every change that there is; ``alias`` is a swap."""

ShadowStage = Literal["offered", "shed", "compared", "scored"]


@dataclass(frozen=True, slots=True)
class TraceRef:
    """Where in a trace something happened, as W3C Trace Context writes it.

    Attributes:
        trace_id: 32 hexadecimal digits.
        span_id: 16 hexadecimal digits.
        sampled: whether the span is recorded, so that a link to it leads somewhere.
    """

    trace_id: str
    span_id: str
    sampled: bool = True


def operation_of(path: str) -> str:
    """OpenTelemetry's ``gen_ai.operation.name`` of a route."""
    return "text_completion" if path == COMPLETIONS else "chat"


@dataclass(frozen=True, slots=True)
class RequestEvent:
    """A request that was answered for a prompt, or failed to be.

    Attributes:
        request_id: the engine's id of it, or "" if it never came that far.
        decision: which version was to answer, and why.
        status: the HTTP status; 499 if the client went away, and of a stream that ended in an error
            of ours the status that it would have had.
        error: a stable code (of ours, or the status's), or None if it was answered in full.
        started_at: Unix time of its arrival.
        ttft_seconds: from arrival to the first token, or None if there was none.
        e2e_seconds: from arrival to the end.
        visible_tokens: prompt tokens without the virtual ones, over all of its engine inputs.
        virtual_tokens: likewise.
        cached_tokens: prompt tokens that the prefix cache had.
        output_tokens: generated tokens.
        finish_reasons: the engine's, one per choice.
        response_id: the id that the client reads in the answer, or "".
        queue_seconds: the longest that an input of it waited in the engine's queue, or None.
        prefill_seconds: the longest that an input of it took from the queue to its first token.
        lease_wait_seconds: how long it waited for its version to become resident; None if the
            version was resident, which is the rule.
        trace: its own span, or None while tracing is off.
        operation: OpenTelemetry's ``gen_ai.operation.name``: ``chat`` or ``text_completion``.
        path: the route, such as ``/v1/chat/completions``.
    """

    request_id: str
    decision: Decision
    status: int
    error: str | None
    started_at: float
    ttft_seconds: float | None
    e2e_seconds: float
    visible_tokens: int
    virtual_tokens: int
    cached_tokens: int
    output_tokens: int
    finish_reasons: tuple[str, ...]
    response_id: str = ""
    queue_seconds: float | None = None
    prefill_seconds: float | None = None
    lease_wait_seconds: float | None = None
    trace: TraceRef | None = None
    operation: str = "chat"
    path: str = ""

    @property
    def failed(self) -> bool:
        """Whether the server is to blame: a 5xx, or an answer that ended in an error.

        A bad request (4xx) and a client that went away are nobody's regression.
        """
        return self.status >= 500 or "error" in self.finish_reasons  # noqa: PLR2004 - HTTP

    @property
    def compared(self) -> bool:
        """Whether it counts when arms are compared: the sticky split chose it, nothing else did."""
        return self.decision.reason == "split"

    @property
    def token_seconds(self) -> float | None:
        """Seconds per token after the first, or None if there were not two tokens of one choice."""
        if self.ttft_seconds is None or len(self.finish_reasons) != 1 or self.output_tokens < 2:  # noqa: PLR2004 - two tokens have one gap
            return None
        return max(self.e2e_seconds - self.ttft_seconds, 0.0) / (self.output_tokens - 1)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request for a prompt that was refused before a version was chosen.

    Attributes:
        prompt: the prompt's name.
        code: the error's stable code, such as ``arm_not_resident``.
    """

    prompt: str
    code: str


@dataclass(frozen=True, slots=True)
class Answered:
    """Which version gave an answer, as it is remembered for what people say about it later.

    Attributes:
        response_id: the id that the client read in the answer.
        trace: the span of the request, or None.
        prompt, version, digest, arm, cohort, route, generation, epoch: as they were decided.
        compared: whether the sticky split had chosen the version.
        at: Unix time of the request's arrival.
    """

    response_id: str
    trace: TraceRef | None
    prompt: str
    version: str
    digest: str
    arm: str
    cohort: str
    route: str
    generation: int
    epoch: int
    compared: bool
    at: float


@dataclass(frozen=True, slots=True)
class Feedback:
    """What a user did about an answer; told once for each answer and kind.

    Attributes:
        answer: the answer that it is about.
        kind: what happened.
        value: a number that goes with it (an amount, a rating), or None.
        first: nobody had done anything about the answer before.
        first_unhappy: it is the first that finds fault with the answer.
    """

    answer: Answered
    kind: FeedbackKind
    value: float | None = None
    first: bool = True
    first_unhappy: bool = False


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluator found about an answer; told once for each answer and evaluator.

    Attributes:
        answer: the answer that it is about.
        name: the evaluator's name, such as ``faithfulness``.
        passed: its verdict.
        score: its score, or None.
    """

    answer: Answered
    name: str
    passed: bool
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Dropped:
    """Something that should have been kept or told was lost.

    Attributes:
        what: ``span``, ``answer``.
        reason: why, in one word.
        count: how many of them.
    """

    what: str
    reason: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class ShadowEvent:
    """Something happened to a copy of a request.

    Attributes:
        prompt, cohort: the request's.
        version: the candidate that gets the copy.
        against: the version that answered the user.
        stage: ``offered`` (drawn), ``shed`` (it came to nothing, for ``cause``), ``compared`` (both
            answers are there) or ``scored`` (the candidate was asked about the user's answer).
        cause: why it was shed, or None.
        matched: whether both answers are the same, where they were compared.
        divergence: mean difference of log-probability per token (nats), where it was scored.
    """

    prompt: str
    cohort: str
    version: str
    against: str
    stage: ShadowStage
    cause: str | None = None
    matched: bool | None = None
    divergence: float | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """A tensor was made resident on the workers, or could not be.

    Attributes:
        digest: the content's digest.
        source: where its bytes were: the workers' host tier or the blob store.
        seconds: how long that took.
        evicted: versions that had to leave the bank for it.
        error: a stable code, or None.
    """

    digest: str
    source: Literal["host", "blob"]
    seconds: float
    evicted: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """A change that was made here, or failed: an import, a swap, a promotion.

    Attributes:
        name: what was done.
        prompt: the prompt's name.
        subject: the version, alias or rollout that it was about, or "".
        actor: who asked, or None.
        started_at: Unix time.
        seconds: how long it took, until every request here followed it.
        error: a stable code, or None if it was done.
        parent: ``traceparent`` of the call that asked for it, or None.
        attributes: what else there is to say, by names of ours without prefix.
    """

    name: OperationName
    prompt: str
    subject: str
    actor: str | None
    started_at: float
    seconds: float
    error: str | None = None
    parent: str | None = None
    attributes: Mapping[str, str | int | float | bool] = field(
        default_factory=lambda: MappingProxyType({})
    )


@dataclass(frozen=True, slots=True)
class Seen:
    """This server has read a new snapshot of the catalogue, and prepares to serve it."""

    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Applied:
    """This server serves a new snapshot of the catalogue now."""

    snapshot: Snapshot
