"""Where in a trace something is: between spans, headers and plain references (W3C Trace Context)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opentelemetry import trace
from opentelemetry.trace import SpanContext, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from softprompt_serve.telemetry.events import TraceRef

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context
    from opentelemetry.trace import Span

_PROPAGATOR: Final = TraceContextTextMapPropagator()


def headers_of(span: Span) -> dict[str, str]:
    """``traceparent`` and ``tracestate`` for a child; nothing if the span is not recorded."""
    if not span.is_recording():
        return {}
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, trace.set_span_in_context(span))
    return carrier


def parent_of(headers: Mapping[str, str]) -> Context:
    """The context in which a caller's child begins; an empty one without a valid caller."""
    return _PROPAGATOR.extract(headers)


def ref_of(span: Span) -> TraceRef:
    """The span's own place."""
    context = span.get_span_context()
    return TraceRef(
        trace.format_trace_id(context.trace_id),
        trace.format_span_id(context.span_id),
        context.trace_flags.sampled,
    )


def remote(ref: TraceRef) -> SpanContext:
    """A place that a link or a child may name."""
    flags = TraceFlags(TraceFlags.SAMPLED if ref.sampled else TraceFlags.DEFAULT)
    return SpanContext(
        int(ref.trace_id, 16), int(ref.span_id, 16), is_remote=True, trace_flags=flags
    )
