"""Counts requests, refusals, feedback and verdicts by version: what a controller analyses."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from prometheus_client import Counter

from softprompt_serve.router.ask import DEFAULT, OTHER
from softprompt_serve.telemetry.labels import Bounded, exemplar, meant, multiprocess
from softprompt_serve.telemetry.metrics_series import Families, Series

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from softprompt_serve.registry.snapshot import Snapshot
    from softprompt_serve.rollout.cost import Prices
    from softprompt_serve.telemetry.events import (
        Answered,
        Evaluation,
        Feedback,
        Refusal,
        RequestEvent,
        TraceRef,
    )
    from softprompt_serve.telemetry.labels import Prompts

EVALUATORS: Final = 64
"""Names of evaluators, which applications choose, that have series of their own."""


class RequestMetrics:
    """A listener of all that happens to a request.

    Args:
        registry: where the metrics are registered.
        base_model: the label's value.
        prices: the tariff; without one for what a request has, its cost is absent.
        prompts: which names may be labels.
        arms: how many prompts, versions and arms have series of their own.
        collapsed: counts what comes after them, as ``other``.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        base_model: str,
        prices: Prices,
        prompts: Prompts,
        arms: int,
        collapsed: Counter,
    ) -> None:
        self._base_model = base_model
        self._prices = prices
        self._prompts = prompts
        self._exemplars = not multiprocess()
        self._families = Families(registry)
        self._arms: Bounded[tuple[str, str, str]] = Bounded(arms, collapsed)
        self._passed: Bounded[tuple[str, str]] = Bounded(arms, collapsed)
        self._evaluators: Bounded[str] = Bounded(EVALUATORS, collapsed)
        self._series: dict[tuple[str, str, str, str, str], Series] = {}
        self._asked: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
        self._fallbacks = Counter(
            "softprompt_fallbacks",
            "Requests whose arm was not resident, so that another arm answered.",
            ("prompt", "arm"),
            registry=registry,
        )
        self._refusals = Counter(
            "softprompt_refusals",
            "Requests that were refused before a version was chosen.",
            ("prompt", "code"),
            registry=registry,
        )

    def prepare(self, snapshot: Snapshot) -> None:
        """Begin the series of everything that a prompt's name or alias can mean now.

        They begin in each cohort and route that the prompt was asked in, as the candidate's traffic
        will be like the baseline's, and in the default ones. Prompts with a rollout come first.
        """
        gone = self._asked.keys() - snapshot.prompts.keys()
        for name in gone:
            del self._asked[name]
        priced = self._prices.complete
        for prompt in sorted(snapshot.prompts.values(), key=lambda found: found.rollout is None):
            places = {(DEFAULT, DEFAULT), *self._asked.get(prompt.name, ())}
            for version, arm in meant(prompt):
                if self._arms.reserves((prompt.name, version, arm)):
                    for place in places:
                        self._of(prompt.name, version, arm, *place).begin(priced=priced)

    def answered(self, event: RequestEvent) -> None:
        """Count one request."""
        decision = event.decision
        version = decision.version
        series = self._find(
            version.prompt, version.version, decision.arm, decision.cohort, decision.route
        )
        series.answered(event, self._prices.cost(event), self._where(event.trace))
        if decision.passed_over is not None:
            passed = (version.prompt, decision.passed_over)
            self._fallbacks.labels(*(passed if self._passed.admits(passed) else OTHERS)).inc()

    def refused(self, refusal: Refusal) -> None:
        """Count one refusal."""
        self._refusals.labels(self._prompts.label(refusal.prompt), refusal.code).inc()

    def reacted(self, given: Feedback) -> None:
        """Count what a user did about an answer."""
        self._about(given.answer).reacted(given.kind, self._where(given.answer.trace))

    def judged(self, found: Evaluation) -> None:
        """Count an evaluator's verdict."""
        name = found.name if self._evaluators.admits(found.name) else OTHER
        result = "pass" if found.passed else "fail"
        self._about(found.answer).judged(name, result, self._where(found.answer.trace))

    def _about(self, answer: Answered) -> Series:
        return self._find(answer.prompt, answer.version, answer.arm, answer.cohort, answer.route)

    def _find(self, prompt: str, version: str, arm: str, cohort: str, route: str) -> Series:
        """The series of these labels; those of ``other`` if there are too many."""
        series = self._series.get((prompt, version, arm, cohort, route))
        if series is not None:
            return series
        if not self._arms.admits((prompt, version, arm)):
            return self._of(OTHER, OTHER, OTHER, cohort, route)
        self._asked[prompt].add((cohort, route))
        return self._of(prompt, version, arm, cohort, route)

    def _of(self, *labels: str) -> Series:
        prompt, version, arm, cohort, route = labels
        key = (prompt, version, arm, cohort, route)
        if (series := self._series.get(key)) is None:
            series = Series(self._families, (*key, self._base_model))
            self._series[key] = series
        return series

    def _where(self, trace: TraceRef | None) -> dict[str, str] | None:
        return exemplar(trace) if self._exemplars else None


OTHERS: Final = (OTHER, OTHER)
