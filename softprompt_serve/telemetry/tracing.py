"""Spans of requests, shadows, changes and feedback. Owns a tracer provider of its own.

It is not the global one: vLLM sets that, with a resource and a sampler of vLLM's choosing. A span
begins before vLLM sees the request, and its ``traceparent`` takes the place of the caller's, so
that vLLM's ``llm_request`` becomes a child. Nothing here waits, and nothing raises into a request.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from typing import TYPE_CHECKING, Final

from opentelemetry import trace
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Link, NonRecordingSpan, SpanKind, StatusCode

from softprompt_serve.telemetry import otlp, spans
from softprompt_serve.telemetry import span_names as names
from softprompt_serve.telemetry.content import Content
from softprompt_serve.telemetry.events import Evaluation, Feedback, Operation
from softprompt_serve.telemetry.places import headers_of, parent_of, ref_of, remote

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.trace import Span

    from softprompt_serve.settings import Settings
    from softprompt_serve.telemetry.channel import Events
    from softprompt_serve.telemetry.content import Kind
    from softprompt_serve.telemetry.events import RequestEvent, TraceRef
    from softprompt_serve.telemetry.spans import Attributes, Describer

logger = logging.getLogger(__name__)

SERVICE: Final = "softprompt-serve"
_NANO: Final = 1_000_000_000
_SERVER_ERROR: Final = 500


class Tracing:
    """Begins spans and listens to what becomes one by itself."""

    def __init__(
        self, provider: TracerProvider, describer: Describer, content: Content | None = None
    ) -> None:
        """Use ``provider``; :meth:`from_environment` makes it."""
        self.describer = describer
        self.content = content
        self._provider = provider
        self._tracer = provider.get_tracer("softprompt_serve")

    @classmethod
    def from_environment(
        cls,
        settings: Settings,
        describer: Describer,
        *,
        version: str,
        on_drop: Callable[[str, int], None],
    ) -> Tracing | None:
        """As ``OTEL_*`` says; None while there is nowhere to send spans.

        Raises:
            StartupRefused: ``otlp_protocol_unsupported`` or ``trace_redact_missing``.
        """
        if not otlp.wanted(os.environ):
            return None
        ours = {
            "service.name": SERVICE,
            "service.version": version,
            "service.instance.id": uuid.uuid4().hex,
        }
        stated = OTELResourceDetector().detect().attributes  # wins over ours
        resource = Resource.create({k: v for k, v in ours.items() if k not in stated})
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(otlp.Batches(otlp.exporter(os.environ), on_drop))
        return cls(provider, describer, Content.of(settings))

    def begin(self, headers: Mapping[str, str], method: str, path: str) -> RequestSpan:
        """A request has arrived; its span goes on where the caller's ``traceparent`` says."""
        attributes = self.describer.arrived(method, path)
        span = self._tracer.start_span(
            str(attributes[names.OPERATION]),
            context=parent_of(headers),
            kind=SpanKind.SERVER,
            attributes=attributes,
        )
        return RequestSpan(span, self)

    def shadow(self, prompt: str, version: str, of: TraceRef | None) -> ShadowSpan:
        """A copy of a request is offered; a trace of its own, linked with the user's."""
        links = [] if of is None else [Link(remote(of))]
        span = self._tracer.start_span(
            f"shadow {prompt}",
            context=trace.set_span_in_context(trace.INVALID_SPAN),
            kind=SpanKind.INTERNAL,
            attributes={
                names.SHADOW: True,
                names.NAME: prompt,
                names.VERSION: version,
                names.PROMPT_NAME: prompt,
                names.PROMPT_VERSION: version,
                names.BASE_MODEL: self.describer.base_model,
            },
            links=links,
        )
        return ShadowSpan(span)

    def listen_to(self, events: Events) -> None:
        """Trace changes, feedback and evaluations from now on."""
        events.listen(Operation, self.changed)
        events.listen(Feedback, self.reacted)
        events.listen(Evaluation, self.evaluated)

    def changed(self, made: Operation) -> None:
        """A change was made, or failed: one span, as long as it took."""
        begun = int(made.started_at * _NANO)
        context = None if made.parent is None else parent_of({"traceparent": made.parent})
        span = self._tracer.start_span(
            f"{made.name} {made.prompt}",
            context=context,
            start_time=begun,
            attributes=spans.operation(made),
        )
        if made.error is not None:
            span.set_attribute(names.ERROR_TYPE, made.error)
            span.set_status(StatusCode.ERROR, made.error)
        span.end(begun + int(made.seconds * _NANO))

    def reacted(self, given: Feedback) -> None:
        """A user reacted: a short span below that of the answer, with an event."""
        self._about(given.answer.trace, names.FEEDBACK_EVENT, spans.feedback(given))

    def evaluated(self, found: Evaluation) -> None:
        """An evaluator judged: likewise."""
        self._about(found.answer.trace, names.EVALUATION_EVENT, spans.evaluation(found))

    def close(self, seconds: float) -> None:
        """Export what waits, for ``seconds`` at most."""
        thread = threading.Thread(target=self._provider.shutdown, daemon=True)
        thread.start()
        thread.join(seconds)

    def _about(self, answer: TraceRef | None, event: str, attributes: Attributes) -> None:
        if answer is None or not answer.sampled:
            return
        context = trace.set_span_in_context(NonRecordingSpan(remote(answer)))
        span = self._tracer.start_span(event, context=context, attributes=attributes)
        span.add_event(event, attributes)
        span.end()


class RequestSpan:
    """The server span of one request; its request's own task is the only user."""

    __slots__ = ("_ended", "_owner", "_span", "ref")

    def __init__(self, span: Span, owner: Tracing) -> None:
        """Made by :meth:`Tracing.begin`."""
        self._span = span
        self._owner = owner
        self._ended = False
        self.ref = ref_of(span)

    @property
    def wants_content(self) -> bool:
        """Whether texts are to be given to it."""
        return self._owner.content is not None and self._span.is_recording()

    def headers(self) -> dict[str, str]:
        """``traceparent`` (and ``tracestate``) for children; nothing if it is not recorded."""
        return headers_of(self._span)

    def content(self, kind: Kind, text: str) -> None:
        """The request's or the answer's text, if that may be told."""
        if self._owner.content is None or not self._span.is_recording():
            return
        told = self._owner.content.told(kind, text)
        if told is not None:
            name = names.INPUT_VALUE if kind == "input" else names.OUTPUT_VALUE
            self._span.set_attribute(name, told)

    def end(
        self,
        event: RequestEvent | None,
        *,
        status: int,
        prompt: str | None = None,
        error: str | None = None,
    ) -> None:
        """The last byte was sent, or the client went away.

        Args:
            event: what happened, for a request whose version was chosen.
            status: the HTTP status.
            prompt: the prompt that was asked for, or None for the base model.
            error: the stable code of a refusal.
        """
        if self._ended:
            return
        self._ended = True
        try:
            self._describe(event, status, prompt, error)
        except Exception:
            logger.exception("A span could not be described.")
        self._span.end()

    def _describe(
        self, event: RequestEvent | None, status: int, prompt: str | None, error: str | None
    ) -> None:
        span = self._span
        if not span.is_recording():
            return
        span.set_attribute(names.HTTP_STATUS, status)
        failed = status >= _SERVER_ERROR
        if event is not None:
            span.set_attributes(self._owner.describer.answered(event))
            span.update_name(f"{event.operation} {event.decision.version.prompt}")
            self._mark(event)
            error, failed = event.error, event.failed
        elif prompt is not None:
            span.set_attributes({names.NAME: prompt, names.REQUEST_MODEL: prompt})
        if error is None and status >= 400:  # noqa: PLR2004 - HTTP
            error = f"http_{status}"
        if error is not None:
            span.set_attribute(names.ERROR_TYPE, error)
        if failed:  # what the client did wrong is no error of a server's span
            span.set_status(StatusCode.ERROR, error)

    def _mark(self, event: RequestEvent) -> None:
        began = event.started_at
        if event.lease_wait_seconds is not None:
            waited = {names.WAITED: event.lease_wait_seconds}
            self._span.add_event(names.LEASE_EVENT, waited, int(began * _NANO))
        if event.ttft_seconds is not None:
            at = int((began + event.ttft_seconds) * _NANO)
            self._span.add_event(names.FIRST_TOKEN_EVENT, timestamp=at)


class ShadowSpan:
    """The span of a copy, from its offer to whatever became of it."""

    __slots__ = ("_span",)

    def __init__(self, span: Span) -> None:
        """Made by :meth:`Tracing.shadow`."""
        self._span = span

    def headers(self) -> dict[str, str]:
        """For the engine, so that what it does for the copy is a child."""
        return headers_of(self._span)

    def compared(self, *, matched: bool) -> None:
        """Both answers are there."""
        self._span.set_attribute(names.SHADOW_MATCHED, matched)

    def scored(self, divergence: float) -> None:
        """The candidate was asked about the user's answer; nats per token."""
        self._span.set_attribute(names.SHADOW_DIVERGENCE, divergence)

    def end(self, outcome: str) -> None:
        """``done``, or the cause for which it was shed."""
        self._span.set_attribute(names.SHADOW_OUTCOME, outcome)
        if outcome == "failed":
            self._span.set_attribute(names.ERROR_TYPE, outcome)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()
