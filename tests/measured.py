"""Metrics in a registry of their own, and what they say."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from softprompt_serve.rollout.cost import Prices
from softprompt_serve.telemetry.channel import Events
from softprompt_serve.telemetry.metrics import Metrics

BASE = "base-model"
TARIFF = Prices(input=1.0, cached_input=0.25, virtual=0.5, output=4.0)
BUILD = {"version": "0.1.0", "vllm": "vllm 0.32.0", "base_revision": "main"}


class Measured:
    """Events go in, values come out."""

    def __init__(self, *, prices: Prices | None = None, arms: int = 500) -> None:
        self.registry = CollectorRegistry()
        self.metrics = Metrics(
            self.registry, base_model=BASE, prices=prices or Prices(), arms=arms, build=BUILD
        )
        self._events = Events()
        self.metrics.listen_to(self._events)

    def emit(self, *events: object) -> Measured:
        for event in events:
            self._events.emit(event)
        return self

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"softprompt_{name}", labels)

    def series(self, name: str) -> list[dict[str, str]]:
        """Labels of every series of that name."""
        return [
            sample.labels
            for family in self.registry.collect()
            for sample in family.samples
            if sample.name == f"softprompt_{name}"
        ]

    def shown(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """Values by some of their labels, without those that are 0."""
        return {
            tuple(sample.labels[label] for label in labels): sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if sample.name == f"softprompt_{name}" and sample.value
        }


def at(
    version: str = "v2",
    arm: str | None = None,
    *,
    prompt: str = "support",
    cohort: str = "default",
    route: str = "default",
) -> dict[str, str]:
    """The labels of a request."""
    return {
        "prompt": prompt,
        "version": version,
        "arm": arm or version,
        "cohort": cohort,
        "route": route,
        "base_model": BASE,
    }
