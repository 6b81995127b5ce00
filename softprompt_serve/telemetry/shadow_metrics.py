"""Counts what becomes of shadows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import Counter, Histogram

from softprompt_serve.registry.snapshot import PRODUCTION
from softprompt_serve.router.ask import DEFAULT, OTHER
from softprompt_serve.telemetry.buckets import NATS
from softprompt_serve.telemetry.labels import Bounded

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from softprompt_serve.registry.snapshot import Snapshot
    from softprompt_serve.telemetry.events import ShadowEvent

LABELS: Final = ("prompt", "version", "against", "cohort", "base_model")


class ShadowMetrics:
    """A listener of shadow events.

    Args:
        registry: where the metrics are registered.
        base_model: the label's value.
        arms: how many prompts, versions and versions against them have series of their own.
        collapsed: counts what comes after them, as ``other``.
    """

    def __init__(
        self, registry: CollectorRegistry, *, base_model: str, arms: int, collapsed: Counter
    ) -> None:
        self._base_model = base_model
        self._own: Bounded[tuple[str, str, str]] = Bounded(arms, collapsed)
        self._offered = Counter(
            "softprompt_shadow_offered",
            "Requests that were drawn for a shadow.",
            LABELS,
            registry=registry,
        )
        self._shed = Counter(
            "softprompt_shadow_shed",
            "Copies that came to nothing, or to no more than was counted before.",
            (*LABELS, "cause"),
            registry=registry,
        )
        self._pairs = Counter(
            "softprompt_shadow_pairs",
            "Answers of the shadow that were compared with the user's, text for text.",
            (*LABELS, "result"),
            registry=registry,
        )
        self._divergence = Histogram(
            "softprompt_shadow_divergence_nats",
            "How much less likely the shadow finds the user's answer, per token; 0 if more.",
            LABELS,
            buckets=NATS,
            registry=registry,
        )

    def prepare(self, snapshot: Snapshot) -> None:
        """Begin the series of each shadow against each version that may answer before it."""
        for prompt in snapshot.prompts.values():
            spec = None if prompt.rollout is None else prompt.rollout.spec
            if spec is None or spec.shadow is None:
                continue
            production = prompt.aliases.get(PRODUCTION)
            answering = {production, *(arm.version for arm in spec.arms)} - {None}
            version = spec.shadow.version
            for against in sorted(str(name) for name in answering - {version}):
                if self._own.reserves((prompt.name, version, against)):
                    labels = (prompt.name, version, against, DEFAULT, self._base_model)
                    self._offered.labels(*labels)
                    self._divergence.labels(*labels)
                    for result in ("match", "mismatch"):
                        self._pairs.labels(*labels, result)

    def __call__(self, event: ShadowEvent) -> None:
        """Count one thing that happened to a copy."""
        names = (event.prompt, event.version, event.against)
        if not self._own.admits(names):
            names = (OTHER, OTHER, OTHER)
        labels = (*names, event.cohort, self._base_model)
        if event.stage == "offered":
            self._offered.labels(*labels).inc()
        elif event.stage == "shed":
            self._shed.labels(*labels, event.cause or "unknown").inc()
        elif event.stage == "compared":
            self._pairs.labels(*labels, "match" if event.matched else "mismatch").inc()
        elif event.divergence is not None:
            # Below 0 it would make the sum fall, which Prometheus takes for a restart.
            self._divergence.labels(*labels).observe(max(event.divergence, 0.0))
