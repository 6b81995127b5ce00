"""Request events as Prometheus metrics, by version: what an outside controller analyses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import Counter, Histogram

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


class RequestMetrics:
    """A listener of request events.

    Its metrics are ``softprompt_requests_total``, ``softprompt_request_errors_total``,
    ``softprompt_time_to_first_token_seconds``, ``softprompt_request_duration_seconds``,
    ``softprompt_fallbacks_total`` (requests whose arm was not resident here) and
    ``softprompt_refusals_total``.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the metrics; ValueError if they are registered already."""
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
        self._duration.labels(*labels).observe(event.e2e_seconds)
        if decision.passed_over is not None:
            self._fallbacks.labels(version.prompt, decision.passed_over).inc()
