"""Counts changes, and what the built-in controller decided."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import Counter, Histogram

from softprompt_serve.rollout.progress import ACTOR
from softprompt_serve.telemetry.buckets import WAIT_SECONDS

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from softprompt_serve.telemetry.events import Operation
    from softprompt_serve.telemetry.labels import Prompts

DECISIONS: Final = frozenset({"advance", "promote", "rollback", "pause", "resume"})
OK: Final = "ok"


class OperationMetrics:
    """A listener of operations.

    Args:
        registry: where the metrics are registered.
        prompts: which names may be labels.
    """

    def __init__(self, registry: CollectorRegistry, prompts: Prompts) -> None:
        self._prompts = prompts
        self._operations = Counter(
            "softprompt_operations",
            "Changes that were made here, or failed.",
            ("operation", "prompt", "result"),
            registry=registry,
        )
        self._seconds = Histogram(
            "softprompt_operation_seconds",
            "How long a change took that was made, until requests here followed it.",
            ("operation",),
            buckets=WAIT_SECONDS,
            registry=registry,
        )
        self._decisions = Counter(
            "softprompt_controller_decisions",
            "Changes that the built-in controller made here.",
            ("prompt", "decision"),
            registry=registry,
        )

    def __call__(self, made: Operation) -> None:
        """Count one change."""
        prompt = self._prompts.label(made.prompt)
        self._operations.labels(made.name, prompt, made.error or OK).inc()
        if made.error is not None:
            return
        self._seconds.labels(made.name).observe(made.seconds)
        if made.actor == ACTOR and made.name in DECISIONS:
            self._decisions.labels(prompt, made.name).inc()
