"""Metrics of requests and of what people say of the answers, for each combination of labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, get_args

from prometheus_client import Counter, Histogram

from softprompt_serve.telemetry.buckets import SECONDS, TOKEN_SECONDS, USD, WAIT_SECONDS
from softprompt_serve.telemetry.events import FeedbackKind
from softprompt_serve.telemetry.labels import LABELS

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from softprompt_serve.telemetry.events import RequestEvent

ENGINE_ERROR: Final = "engine_error"
"""The error that is there with 0 before any has happened."""

TOKENS: Final = {
    "visible": "Prompt tokens that a person could read.",
    "virtual": "Prompt tokens that soft prompts and prefixes added.",
    "cached": "Prompt tokens that the prefix cache had.",
    "output": "Generated tokens.",
}


class Families:
    """The metrics that have the labels of :data:`~softprompt_serve.telemetry.labels.LABELS`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"softprompt_{name}", what, (*LABELS, *labels), registry=registry)

        def histogram(name: str, what: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"softprompt_{name}", what, LABELS, buckets=buckets, registry=registry)

        self.requests = counter("requests", "Requests that a version was chosen for.", "status")
        self.errors = counter(
            "request_errors", "Requests that failed through no fault of the client.", "error"
        )
        self.tokens = {sort: counter(f"{sort}_tokens", what) for sort, what in TOKENS.items()}
        self.cost = counter("cost_usd", "What requests cost, by the tariff.")
        self.feedback = counter("feedback", "Answers that people reacted to.", "kind")
        self.evaluations = counter(
            "eval_results", "Verdicts of evaluators on answers.", "evaluation", "result"
        )
        self.ttft = histogram(
            "time_to_first_token_seconds", "From arrival to the first token.", SECONDS
        )
        self.token_time = histogram(
            "time_per_output_token_seconds",
            "Between tokens after the first, on average over the answer.",
            TOKEN_SECONDS,
        )
        self.duration = histogram(
            "request_duration_seconds", "From arrival to the end of the answer.", SECONDS
        )
        self.queue = histogram("queue_seconds", "In the engine's queue.", WAIT_SECONDS)
        self.prefill = histogram(
            "prefill_seconds", "From the queue to the first token.", WAIT_SECONDS
        )
        self.trace_cost = histogram(
            "token_cost_per_trace_usd", "What one whole answer cost, by the tariff.", USD
        )


class Series:
    """One combination of labels: each metric's child is looked up once, as that is slow."""

    __slots__ = (
        "_costs",
        "_errors",
        "_evaluations",
        "_families",
        "_feedback",
        "_labels",
        "_requests",
        "_timed",
        "_tokens",
        "begun",
    )

    def __init__(self, families: Families, labels: tuple[str, ...]) -> None:
        self._families = families
        self._labels = labels
        self._requests: dict[int, Counter] = {}
        self._errors: dict[str, Counter] = {}
        self._feedback: dict[str, Counter] = {}
        self._evaluations: dict[tuple[str, str], Counter] = {}
        self._costs: tuple[Counter, Histogram] | None = None
        self._tokens = tuple(found.labels(*labels) for found in families.tokens.values())
        self._timed = tuple(
            found.labels(*labels)
            for found in (
                families.ttft,
                families.token_time,
                families.duration,
                families.queue,
                families.prefill,
            )
        )
        self.begun = False

    def begin(self, *, priced: bool) -> None:
        """Be there with 0, so that the first of anything is an increase."""
        if self.begun:
            return
        self.begun = True
        self._requests[200] = self._families.requests.labels(*self._labels, "200")
        self._errors[ENGINE_ERROR] = self._families.errors.labels(*self._labels, ENGINE_ERROR)
        for kind in get_args(FeedbackKind):
            self._feedback[kind] = self._families.feedback.labels(*self._labels, kind)
        if priced:
            self._cost_of()

    def answered(
        self, event: RequestEvent, cost: float | None, where: dict[str, str] | None
    ) -> None:
        """Count a request; ``where`` is the exemplar."""
        if (requests := self._requests.get(event.status)) is None:
            requests = self._families.requests.labels(*self._labels, str(event.status))
            self._requests[event.status] = requests
        requests.inc(1, where)
        if event.failed:
            error = event.error or "unknown"
            if (errors := self._errors.get(error)) is None:
                errors = self._errors[error] = self._families.errors.labels(*self._labels, error)
            errors.inc(1, where)
        visible, virtual, cached, output = self._tokens
        visible.inc(event.visible_tokens)
        virtual.inc(event.virtual_tokens)
        cached.inc(event.cached_tokens)
        output.inc(event.output_tokens)
        ttft, token_time, duration, queue, prefill = self._timed
        duration.observe(event.e2e_seconds, where)
        if event.ttft_seconds is not None:
            ttft.observe(event.ttft_seconds, where)
        if (between := event.token_seconds) is not None:
            token_time.observe(between, where)
        if event.queue_seconds is not None:
            queue.observe(event.queue_seconds, where)
        if event.prefill_seconds is not None:
            prefill.observe(event.prefill_seconds, where)
        if cost is not None:
            total, each = self._cost_of()
            total.inc(cost)
            if event.error is None:
                each.observe(cost, where)

    def reacted(self, kind: str, where: dict[str, str] | None) -> None:
        """Count what a user did about an answer."""
        if (found := self._feedback.get(kind)) is None:
            found = self._feedback[kind] = self._families.feedback.labels(*self._labels, kind)
        found.inc(1, where)

    def judged(self, name: str, result: str, where: dict[str, str] | None) -> None:
        """Count an evaluator's verdict."""
        key = (name, result)
        if (found := self._evaluations.get(key)) is None:
            found = self._families.evaluations.labels(*self._labels, name, result)
            self._evaluations[key] = found
        found.inc(1, where)

    def _cost_of(self) -> tuple[Counter, Histogram]:
        """There only once there is a cost, so that none is taken for nothing."""
        if self._costs is None:
            cost, each = self._families.cost, self._families.trace_cost
            self._costs = cost.labels(*self._labels), each.labels(*self._labels)
        return self._costs
