"""Request events as Prometheus metrics, by version: what an outside controller analyses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import Counter, Histogram

from softprompt_serve.rollout.cost import Prices
from softprompt_serve.telemetry.events import Refusal, RequestEvent

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from softprompt_serve.telemetry.events import Events

LABELS: Final = ("prompt", "version", "arm", "cohort", "route")
SECONDS: Final = (
    *(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75),
    *(1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0),
)
"""Upper bounds that fit both a first token and a long answer."""

TOKEN_SECONDS: Final = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05),
    *(0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0),
)
"""Upper bounds for the time between two tokens."""

TOKENS: Final = {
    "visible": "Prompt tokens that a person could read.",
    "virtual": "Prompt tokens that soft prompts added.",
    "cached": "Prompt tokens that the prefix cache had.",
    "output": "Generated tokens.",
}


class RequestMetrics:
    """A listener of request events.

    Its metrics are ``softprompt_requests_total``, ``softprompt_request_errors_total``,
    ``softprompt_time_to_first_token_seconds``, ``softprompt_time_per_output_token_seconds``,
    ``softprompt_request_duration_seconds``, ``softprompt_{visible,virtual,cached,output}_tokens_total``,
    ``softprompt_cost_usd_total`` (absent for what has no tariff),
    ``softprompt_fallbacks_total`` (requests whose arm was not resident here),
    ``softprompt_refusals_total`` and ``softprompt_telemetry_dropped_total``.
    """

    def __init__(self, registry: CollectorRegistry, prices: Prices | None = None) -> None:
        """Register the metrics; ValueError if they are registered already."""
        self._prices = Prices() if prices is None else prices
        self._requests = Counter(
            "softprompt_requests", "Requests by version.", (*LABELS, "status"), registry=registry
        )
        self._errors = Counter(
            "softprompt_request_errors",
            "Requests that failed through no fault of the client.",
            (*LABELS, "error"),
            registry=registry,
        )
        self._ttft = Histogram(
            "softprompt_time_to_first_token_seconds",
            "From arrival to the first token.",
            LABELS,
            buckets=SECONDS,
            registry=registry,
        )
        self._token_time = Histogram(
            "softprompt_time_per_output_token_seconds",
            "Between tokens after the first, on average over the answer.",
            LABELS,
            buckets=TOKEN_SECONDS,
            registry=registry,
        )
        self._tokens = {
            sort: Counter(f"softprompt_{sort}_tokens", what, LABELS, registry=registry)
            for sort, what in TOKENS.items()
        }
        self._cost = Counter(
            "softprompt_cost_usd", "What answers cost, by the tariff.", LABELS, registry=registry
        )
        self._duration = Histogram(
            "softprompt_request_duration_seconds",
            "From arrival to the end of the answer.",
            LABELS,
            buckets=SECONDS,
            registry=registry,
        )
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

        self._dropped = Counter(
            "softprompt_telemetry_dropped",
            "What should have been told of, and was not.",
            ("what", "reason"),
            registry=registry,
        )

    def dropped(self, what: str, reason: str, count: int = 1) -> None:
        """Count what is lost of spans, say; from any thread."""
        self._dropped.labels(what, reason).inc(count)

    def listen_to(self, events: Events) -> None:
        """Count what happens from now on."""
        events.listen(RequestEvent, self)
        events.listen(Refusal, self.refused)

    def refused(self, refusal: Refusal) -> None:
        """Count one refusal."""
        self._refusals.labels(refusal.prompt, refusal.code).inc()

    def __call__(self, event: RequestEvent) -> None:
        """Count one request."""
        decision = event.decision
        version = decision.version
        labels = (version.prompt, version.version, decision.arm, decision.cohort, decision.route)
        self._requests.labels(*labels, str(event.status)).inc()
        if event.failed:
            self._errors.labels(*labels, event.error or "unknown").inc()
        if event.ttft_seconds is not None:
            self._ttft.labels(*labels).observe(event.ttft_seconds)
        if (seconds := event.token_seconds) is not None:
            self._token_time.labels(*labels).observe(seconds)
        for sort, counter in self._tokens.items():
            counter.labels(*labels).inc(getattr(event, f"{sort}_tokens"))
        if (cost := self._prices.cost(event)) is not None:
            self._cost.labels(*labels).inc(cost)
        self._duration.labels(*labels).observe(event.e2e_seconds)
        if decision.passed_over is not None:
            self._fallbacks.labels(version.prompt, decision.passed_over).inc()
