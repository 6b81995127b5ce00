"""Shapes of the rollout routes, as they appear in OpenAPI."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from softprompt_serve.artifact.content import Kind  # noqa: TC001 - pydantic reads it
from softprompt_serve.registry.replicas import Serving
from softprompt_serve.registry.snapshot import RolloutState  # noqa: TC001 - pydantic reads it
from softprompt_serve.rollout.progress import follows
from softprompt_serve.rollout.resolve import candidate_of
from softprompt_serve.rollout.spec import Name, RolloutSpec  # noqa: TC001 - pydantic reads them
from softprompt_serve.router.choose import Reason  # noqa: TC001 - pydantic reads it
from softprompt_serve.server.schemas import ForceIn, Shape, rfc3339

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from softprompt_serve.errors import SoftpromptError
    from softprompt_serve.registry.replicas import Replica
    from softprompt_serve.registry.snapshot import Rollout
    from softprompt_serve.router.ask import Ask
    from softprompt_serve.router.choose import Decision
    from softprompt_serve.server.rolling import Seen

WHOLE = 100


class StepOut(Shape):
    """The step in which the progression is."""

    index: int = Field(description="From 0.")
    of: int
    weight: int
    since_seconds: float
    requests: int = Field(description="The candidate's answers in it, as replicas reported them.")
    min_requests: int
    min_duration_seconds: float


class ReplicaOut(Shape):
    """What one live replica serves of the rollout."""

    replica: str
    name: str
    seen_seconds_ago: float
    generation: int
    resident: list[str] = Field(description="Versions that all of its workers hold.")
    since: str = Field(description="Since when both are so; RFC 3339.")
    applied: bool = Field(description="It serves this generation and holds all of its versions.")

    @classmethod
    def of(cls, replica: Replica, prompt: str, rollout: Rollout | None, now: float) -> ReplicaOut:
        """What a replica reported of a prompt; one that reported nothing serves generation 0."""
        nothing = Serving(0, (), replica.started_at)
        serving = replica.rollouts.get(prompt, nothing)
        return cls(
            replica=replica.id,
            name=replica.name,
            seen_seconds_ago=round(max(0.0, now - replica.seen_at), 3),
            generation=serving.generation,
            resident=list(serving.resident),
            since=rfc3339(serving.since),
            applied=follows(replica, prompt, rollout),
        )


class RolloutOut(Shape):
    """How a prompt's traffic is split, and which replicas do so already."""

    prompt: str
    generation: int = Field(description="Grows by one with each change; also the ETag.")
    epoch: int = Field(description="The generation at which the comparison of the arms began.")
    state: RolloutState | Literal["none"]
    reason: str
    spec: RolloutSpec | None = Field(description="The document, aliases resolved.")
    weights: dict[str, int] = Field(description="As they are now; steps move them.")
    production: str | None
    candidate: str | None = Field(description="The one arm that is not production's.")
    step: StepOut | None
    findings: dict[str, Any] | None = Field(description="What the controller saw last.")
    findings_seconds_ago: float | None
    updated_at: str | None
    updated_by: str | None
    applied: bool = Field(description="Every live replica is there.")
    observed: list[ReplicaOut]
    note: str | None = Field(None, description="Why this may be out of date.")
    unverified: dict[str, str] = Field(
        default_factory=dict,
        description="Versions that are not known to be good on the served base model, and why: they "
        "get no more traffic than the policy allows, whatever their weights say.",
    )
    stand_in: str | None = Field(None, description="Who answers for them; null: nobody.")

    @classmethod
    def of(cls, prompt: str, rollout: Rollout | None, seen: Seen) -> RolloutOut:
        """From a state and what is seen of it."""
        production = seen.view.production
        now = time.time() if seen.view.now is None else seen.view.now
        observed = [ReplicaOut.of(replica, prompt, rollout, now) for replica in seen.replicas]
        findings = seen.view.findings
        spec = None if rollout is None else rollout.spec
        ended = rollout is not None and rollout.state in {"promoted", "rolled_back"}
        return cls(
            prompt=prompt,
            generation=0 if rollout is None else rollout.generation,
            epoch=0 if rollout is None else rollout.epoch,
            state="none" if rollout is None or spec is None else rollout.state,
            reason="" if rollout is None else rollout.reason,
            spec=spec,
            weights=_weights(rollout, production),
            production=production,
            candidate=None if spec is None or ended else candidate_of(spec, production),
            step=_step(rollout, seen, now),
            findings=None if findings is None else _shown(findings[1]),
            findings_seconds_ago=None if findings is None else max(0.0, now - findings[0]),
            updated_at=None if rollout is None else rollout.updated_at,
            updated_by=None if rollout is None else rollout.updated_by,
            applied=bool(observed) and all(replica.applied for replica in observed),
            observed=observed,
            note=seen.note,
            unverified=dict(seen.shield.unverified),
            stand_in=seen.shield.stand_in,
        )


def _shown(findings: Mapping[str, Any]) -> dict[str, Any]:
    """Without what the controller keeps for itself."""
    return {name: value for name, value in findings.items() if name != "memory"}


def _weights(rollout: Rollout | None, production: str | None) -> dict[str, int]:
    if rollout is not None and rollout.spec is not None:
        return dict(rollout.weights)
    return {} if production is None else {production: WHOLE}


def _step(rollout: Rollout | None, seen: Seen, now: float) -> StepOut | None:
    if rollout is None or rollout.spec is None or rollout.step is None:
        return None
    step = rollout.spec.steps[rollout.step]
    candidate = candidate_of(rollout.spec, seen.view.production)
    answers = sum(int(t.data.get("requests", 0)) for t in seen.tallies if t.version == candidate)
    return StepOut(
        index=rollout.step,
        of=len(rollout.spec.steps),
        weight=step.weight,
        since_seconds=max(0.0, now - (rollout.step_since or now)),
        requests=max(0, answers - rollout.step_base),
        min_requests=step.min_requests,
        min_duration_seconds=step.min_duration_seconds,
    )


class StateOut(Shape):
    """One state that the prompt's traffic was in."""

    generation: int
    action: str
    at: str
    actor: str | None
    production: str | None
    settled: bool = Field(description="One version had all of the split: a rollback's target.")
    weights: dict[str, int]
    spec: RolloutSpec | None


class HistoryOut(Shape):
    """States, newest first; generation 0 is before the first rollout."""

    data: list[StateOut]


class ReasonIn(Shape):
    """Why; kept with the change."""

    reason: str | None = Field(None, max_length=500)


class PromoteIn(ForceIn):
    """Which version shall have everything; absent: the one candidate."""

    version: Name | None = Field(None, description="A version or an alias.", examples=["v3"])


class ExplainIn(Shape):
    """A sample request, as far as choosing its version is concerned."""

    version: Name | None = Field(None, description="As x-softprompt-version pins it.")
    sticky_key: str | None = Field(None, max_length=10_000)
    cohort: str | None = Field(None, description="As x-softprompt-cohort declares it.")
    route: str | None = Field(None, description="As x-softprompt-route declares it.")
    headers: dict[str, str] = Field(default_factory=dict)
    tools: bool = Field(default=False, description="Whether tools are offered.")
    visible_tokens: int | None = Field(None, ge=0)


class RefusalOut(Shape):
    """The error that a request would get."""

    status: int
    code: str
    message: str


class ExplainOut(Shape):
    """What this server would answer a sample request with, or refuse it with, and why."""

    version: str | None = Field(description="null, as is all about it: the request is refused.")
    digest: str | None
    kind: Kind | None
    reason: Reason | None
    rule: str | None
    arm: str | None
    cohort: str
    route: str
    generation: int
    passed_over: str | None = Field(description="The arm that is not resident here.")
    resident: bool
    refusal: RefusalOut | None = Field(description="null: the request is answered.")
    steps: list[str]

    @classmethod
    def of(cls, decision: Decision, steps: Collection[str], *, resident: bool) -> ExplainOut:
        """From what the router decides."""
        version = decision.version
        return cls(
            version=version.version,
            digest=version.digest,
            kind=version.kind,
            reason=decision.reason,
            rule=decision.rule,
            arm=decision.arm,
            cohort=decision.cohort,
            route=decision.route,
            generation=decision.generation,
            passed_over=decision.passed_over,
            resident=resident,
            refusal=None,
            steps=list(steps),
        )

    @classmethod
    def refused(
        cls, error: SoftpromptError, ask: Ask, steps: Collection[str], *, generation: int
    ) -> ExplainOut:
        """From what the router raises."""
        return cls(
            version=None,
            digest=None,
            kind=None,
            reason=None,
            rule=None,
            arm=None,
            cohort=ask.cohort,
            route=ask.route,
            generation=generation,
            passed_over=None,
            resident=False,
            refusal=RefusalOut(status=error.status, code=error.code, message=error.message),
            steps=list(steps),
        )
