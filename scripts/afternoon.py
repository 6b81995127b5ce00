"""An afternoon of simulated traffic, told to the project's real metrics and written down by minutes.

Two prompts: ``support`` walks its candidate v4 to production, with v5 as shadow; ``triage`` promotes
v2, which fails too often, and goes back.
"""
# ruff: noqa: PLR2004, S311 - numbers of a made-up story, and seeded dice for it

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

from prometheus_client import CollectorRegistry

from softprompt_serve.registry.snapshot import Prompt, Rollout, Snapshot, Version
from softprompt_serve.rollout.cost import Prices
from softprompt_serve.rollout.progress import ACTOR
from softprompt_serve.rollout.spec import RolloutSpec
from softprompt_serve.router.choose import Decision
from softprompt_serve.router.plan import Plan
from softprompt_serve.telemetry.channel import Events
from softprompt_serve.telemetry.events import (
    Answered,
    Applied,
    Evaluation,
    Feedback,
    Loaded,
    Operation,
    OperationName,
    Refusal,
    RequestEvent,
    Seen,
    ShadowEvent,
)
from softprompt_serve.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

    from prometheus_client.samples import Sample

MINUTE: Final = 60.0
MINUTES: Final = 180
PRICES: Final = Prices(input=0.4, cached_input=0.1, virtual=0.2, output=1.6)
INSTANCE: Final = 'instance="softprompt-serve:8000",job="softprompt-serve"'
WORKER_ROWS: Final = 512


@dataclass(frozen=True)
class Character:
    """What answers of a version are like, on average.

    Attributes:
        ttft: seconds to the first token.
        output: generated tokens.
        failing: share of requests that fail.
        liked: share of thumbs that are up.
        passing: share of verdicts that are ``pass``.
    """

    ttft: float
    output: float
    failing: float
    liked: float
    passing: float


CHARACTERS: Final = {
    "support@v3": Character(0.32, 120, 0.004, 0.86, 0.93),
    "support@v4": Character(0.21, 96, 0.003, 0.92, 0.97),
    "triage@v1": Character(0.16, 24, 0.002, 0.90, 0.96),
    "triage@v2": Character(0.18, 31, 0.060, 0.78, 0.84),
}
VIRTUAL: Final = {"v1": 20, "v2": 20, "v3": 20, "v4": 48, "v5": 32}
STEPS: Final = {15: 1, 40: 10, 75: 50, 120: 100}
"""Minutes at which ``support@v4`` gets its weights; with the last it is promoted."""

PROMOTED: Final = 100
BACK: Final = 118
"""Minutes at which ``triage@v2`` is promoted and rolled back."""

SAMPLE: Final = 0.1
SHADOW: Final = {"version": "v5", "sample": SAMPLE, "mode": "both"}


class Afternoon:
    """Owner of the registry and of what has happened so far."""

    def __init__(self, seed: int = 7) -> None:
        self._dice = random.Random(seed)
        self._registry = CollectorRegistry()
        build = {"version": "0.4.0", "vllm": "0.32.0", "base_revision": "main"}
        self._metrics = Metrics(
            self._registry, base_model="SmolLM2-135M", prices=PRICES, arms=500, build=build
        )
        self._events = Events()
        self._metrics.listen_to(self._events)
        self._generation = 0

    def write(self, sink: TextIO, began: float) -> None:
        """All of it in OpenMetrics, with times from ``began`` (Unix time) on."""
        for minute in range(MINUTES):
            self._pass(minute)
            stamp = f"{began + minute * MINUTE:.0f}"
            sink.write(f"up{{{INSTANCE}}} 1 {stamp}\n")
            sink.writelines(f"{line} {stamp}\n" for line in self._lines())
        sink.write("# EOF\n")

    def _lines(self) -> Iterator[str]:
        for family in self._registry.collect():
            for sample in family.samples:
                if not sample.name.endswith("_created"):
                    yield _line(sample)

    def _pass(self, minute: int) -> None:
        """Traffic of a minute, and what is changed at its end."""
        emit = self._events.emit
        snapshot = self._catalogue(minute)
        if not minute:
            self._apply(snapshot, minute)
        for name, busy in (("support", 7.0), ("triage", 3.0)):
            rate = busy * (1 + 0.35 * math.sin(minute / 28)) * self._dice.uniform(0.92, 1.08)
            for _ in range(round(rate * MINUTE)):
                self._request(snapshot.prompts[name], minute)
        for operation in self._changes(minute + 1):
            emit(operation)
        self._apply(self._catalogue(minute + 1), minute + 1)
        if self._dice.random() < 0.2:
            emit(Refusal("support", "version_not_found"))

    def _apply(self, snapshot: Snapshot, minute: int) -> None:
        emit = self._events.emit
        emit(Seen(snapshot))
        emit(Applied(snapshot))
        if minute in {0, *STEPS, PROMOTED, BACK}:
            source: Literal["host", "blob"] = "host" if minute == BACK else "blob"
            emit(Loaded("d", source, self._dice.uniform(0.1, 0.6)))
        held = {"a": 20, "b": 20, "c": 48} | ({"d": 32} if minute >= PROMOTED else {})
        status = {
            "bank": True,
            "resident": held,
            "capacity_rows": WORKER_ROWS,
            "used_rows": sum(held.values()),
            "slab_bytes": WORKER_ROWS * 576 * 4,
        }
        self._metrics.bank([status], lambda _: True, snapshot)

    def _request(self, prompt: Prompt, minute: int) -> None:
        dice = self._dice
        weights = {} if prompt.rollout is None else dict(prompt.rollout.weights)
        production = prompt.aliases["production"]
        chosen = dice.choices(list(weights), list(weights.values()))[0] if weights else production
        version = prompt.versions[chosen]
        nature = CHARACTERS[version.label]
        cohort = "regulated" if dice.random() < 0.25 else "default"
        decision = Decision(
            version, "split", chosen if weights else "production", self._generation, cohort=cohort
        )
        crowd = 1 + 0.5 * max(0.0, math.sin(minute / 28))
        ttft = nature.ttft * crowd * dice.lognormvariate(0, 0.45)
        output = max(2, round(nature.output * dice.lognormvariate(0, 0.5)))
        failed = dice.random() < nature.failing
        late = prompt.name == "triage" and minute in {PROMOTED, BACK} and dice.random() < 0.06
        waited = dice.uniform(0.1, 0.5) if late else None
        visible = round(260 * dice.lognormvariate(0, 0.4))
        found = RequestEvent(
            request_id="r",
            decision=decision,
            status=500 if failed else 200,
            error="engine_error" if failed else None,
            started_at=0.0,
            ttft_seconds=None if failed else ttft,
            e2e_seconds=ttft + output * 0.011 * crowd,
            visible_tokens=visible,
            virtual_tokens=version.virtual_tokens,
            cached_tokens=version.virtual_tokens if dice.random() < 0.8 else 0,
            output_tokens=0 if failed else output,
            finish_reasons=("error" if failed else "stop",),
            queue_seconds=ttft * 0.2,
            prefill_seconds=ttft * 0.7,
            lease_wait_seconds=waited,
        )
        self._events.emit(found)
        self._told_later(found, nature)
        if prompt.name == "support" and dice.random() < SAMPLE:
            self._shadow(found, chosen)

    def _told_later(self, request: RequestEvent, nature: Character) -> None:
        """Some answers get a thumb, some a verdict."""
        dice, decision = self._dice, request.decision
        answer = Answered(
            "r", None, decision.version.prompt, decision.version.version, "d", decision.arm,
            decision.cohort, decision.route, decision.generation, 1, compared=True, at=0.0,
        )  # fmt: skip
        if dice.random() < 0.2:
            up = dice.random() < nature.liked
            self._events.emit(Feedback(answer, "thumbs_up" if up else "thumbs_down"))
        if dice.random() < 0.002:
            self._events.emit(Feedback(answer, "escalation"))
        if dice.random() < 0.3:
            passed = dice.random() < nature.passing - 0.05 * (decision.cohort == "regulated")
            self._events.emit(Evaluation(answer, "faithfulness", passed=passed))

    def _shadow(self, request: RequestEvent, against: str) -> None:
        dice = self._dice
        told = ShadowEvent("support", request.decision.cohort, "v5", against, "offered")
        self._events.emit(told)
        if dice.random() < 0.08:
            cause = dice.choice(("busy", "budget_tokens"))
            self._events.emit(replace(told, stage="shed", cause=cause))
            return
        self._events.emit(replace(told, stage="compared", matched=dice.random() < 0.35))
        divergence = dice.lognormvariate(-2.6, 0.8)
        self._events.emit(replace(told, stage="scored", divergence=divergence))

    def _changes(self, minute: int) -> Iterator[Operation]:
        def made(name: OperationName, prompt: str, actor: str = "ada") -> Operation:
            self._generation += 1
            return Operation(name, prompt, "", actor, 0.0, self._dice.uniform(0.05, 0.9))

        if minute == 10:
            yield made("rollout", "support")
        elif minute in STEPS:
            yield made("promote" if STEPS[minute] == 100 else "advance", "support", ACTOR)
        elif minute == PROMOTED:
            yield made("alias", "triage")
            yield made("promote", "triage")
        elif minute == BACK:
            yield made("rollback", "triage")

    def _catalogue(self, minute: int) -> Snapshot:
        weight = max((share for at, share in STEPS.items() if at <= minute), default=0)
        support = _prompt("support", "v3" if weight < 100 else "v4", ("v3", "v4", "v5"))
        if minute >= 10:
            state = "pending" if not weight else "progressing" if weight < 100 else "promoted"
            weights = {"v3": 100 - weight, "v4": weight}
            rollout = _rollout("support", weights, self._generation, state, SHADOW)
            support = replace(support, rollout=rollout)
        new = PROMOTED <= minute < BACK
        triage = _prompt("triage", "v2" if new else "v1", ("v1", "v2"))
        if minute >= PROMOTED:
            weights = {"v1": int(not new), "v2": int(new)}
            state = "promoted" if new else "rolled_back"
            triage = replace(triage, rollout=_rollout("triage", weights, self._generation, state))
        return Snapshot(minute + 1, MappingProxyType({"support": support, "triage": triage}))


def _prompt(name: str, production: str, versions: tuple[str, ...]) -> Prompt:
    made = {
        version: Version(
            name, version, f"{name}{version}", "soft", VIRTUAL[version], 576, "float32", None,
            wanted=True, created_at="", created_by=None,
        )
        for version in versions
    }  # fmt: skip
    return Prompt(name, MappingProxyType(made), MappingProxyType({"production": production}))


def _rollout(
    prompt: str, weights: dict[str, int], generation: int, state: Any, shadow: Any = None
) -> Rollout:
    arms = [{"version": version, "weight": weight} for version, weight in weights.items()]
    spec = RolloutSpec.model_validate({"arms": arms, "shadow": shadow})
    return Rollout(
        generation, 1, state, "", spec, MappingProxyType(weights), Plan.of(prompt, spec, weights),
        None, None, 0, "", None,
    )  # fmt: skip


def _line(sample: Sample) -> str:
    labels = "".join(f',{name}="{value}"' for name, value in sample.labels.items())
    return f"{sample.name}{{{INSTANCE}{labels}}} {sample.value}"
