"""All that happens, as Prometheus metrics; ``docs/metrics.md`` lists them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from prometheus_client import Counter, Gauge

from softprompt_serve.telemetry.bank_metrics import BankMetrics
from softprompt_serve.telemetry.events import (
    Applied,
    Dropped,
    Evaluation,
    Feedback,
    Loaded,
    Operation,
    Refusal,
    RequestEvent,
    Seen,
    ShadowEvent,
)
from softprompt_serve.telemetry.evidence_metrics import EvidenceMetrics
from softprompt_serve.telemetry.labels import Prompts
from softprompt_serve.telemetry.operation_metrics import OperationMetrics
from softprompt_serve.telemetry.request_metrics import RequestMetrics
from softprompt_serve.telemetry.rollout_metrics import RolloutMetrics
from softprompt_serve.telemetry.shadow_metrics import ShadowMetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from prometheus_client import CollectorRegistry

    from softprompt_serve.registry.evidence import Result
    from softprompt_serve.registry.snapshot import Snapshot, Version
    from softprompt_serve.rollout.cost import Prices
    from softprompt_serve.telemetry.channel import Events

BUILD: Final = ("version", "vllm", "base_model", "base_revision")


class Metrics:
    """Every metric of this process, in one registry.

    Used on the event loop, except for :meth:`dropped`.

    Args:
        registry: where they are registered; ValueError if they are already.
        base_model: name of the served base model.
        prices: the tariff.
        arms: how many prompts, versions and arms have series of their own; see ``metric_arms``.
        build: ``version``, ``vllm`` and ``base_revision``, as far as they are known.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        base_model: str,
        prices: Prices,
        arms: int,
        build: Mapping[str, str],
    ) -> None:
        collapsed = Counter(
            "softprompt_metrics_collapsed",
            "What was counted as `other`, or not shown, because there were too many before it.",
            registry=registry,
        )
        self._revision = 0
        self._prompts = Prompts(arms, collapsed)
        self._requests = RequestMetrics(
            registry,
            base_model=base_model,
            prices=prices,
            prompts=self._prompts,
            arms=arms,
            collapsed=collapsed,
        )
        self._shadows = ShadowMetrics(
            registry, base_model=base_model, arms=arms, collapsed=collapsed
        )
        self._bank = BankMetrics(registry, arms=arms, collapsed=collapsed)
        self._rollouts = RolloutMetrics(registry, arms=arms, collapsed=collapsed)
        self._evidence = EvidenceMetrics(registry, arms=arms, collapsed=collapsed)
        self._operations = OperationMetrics(registry, self._prompts)
        self._dropped = Counter(
            "softprompt_telemetry_dropped",
            "What should have been told of, and was not.",
            ("what", "reason"),
            registry=registry,
        )
        known = {**build, "base_model": base_model}
        Gauge(
            "softprompt_build_info",
            "What runs here; always 1.",
            BUILD,
            registry=registry,
            multiprocess_mode="livemax",
        ).labels(*(known.get(name, "") for name in BUILD)).set(1)

    def listen_to(self, events: Events) -> None:
        """Count what happens from now on."""
        events.listen(RequestEvent, self._requests.answered)
        events.listen(RequestEvent, self._bank.answered)
        events.listen(Refusal, self._requests.refused)
        events.listen(Feedback, self._requests.reacted)
        events.listen(Evaluation, self._requests.judged)
        events.listen(ShadowEvent, self._shadows)
        events.listen(Dropped, lambda lost: self.dropped(lost.what, lost.reason, lost.count))
        events.listen(Loaded, self._bank.loaded)
        events.listen(Operation, self._operations)
        events.listen(Seen, self._seen)
        events.listen(Applied, self._applied)

    def bank(
        self,
        statuses: Sequence[Mapping[str, Any]],
        resident: Callable[[Version], bool],
        snapshot: Snapshot,
    ) -> None:
        """Show how full the workers' bank is; see :meth:`BankMetrics.show`."""
        self._bank.show(statuses, resident, snapshot)

    def evaluations(self, results: Iterable[Result], snapshot: Snapshot) -> None:
        """Show what evaluations found; see :meth:`EvidenceMetrics.show`."""
        self._evidence.show(results, snapshot)

    def dropped(self, what: str, reason: str, count: int = 1) -> None:
        """Count what is lost of spans, say; from any thread."""
        self._dropped.labels(what, reason).inc(count)

    def _seen(self, seen: Seen) -> None:
        self._read(seen.snapshot)

    def _applied(self, applied: Applied) -> None:
        snapshot = applied.snapshot
        self._read(snapshot)
        self._rollouts.applied(snapshot)
        self._requests.prepare(snapshot)
        self._shadows.prepare(snapshot)

    def _read(self, snapshot: Snapshot) -> None:
        # What is applied may be older than what was read, as that is still being loaded.
        if snapshot.revision >= self._revision:
            self._revision = snapshot.revision
            self._prompts.learn(snapshot)
            self._rollouts.read(snapshot)
