"""Where spans go: OpenTelemetry's own variables, a bounded queue, and every loss counted."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Final

from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from softprompt_serve.errors import StartupRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    OnDrop = Callable[[str, int], None]

PROTOCOLS: Final = ("grpc", "http/protobuf")
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_TRACES_PATH: Final = "v1/traces"


def wanted(environ: Mapping[str, str]) -> bool:
    """Whether spans are exported: there is an endpoint, and nothing switches them off."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if environ.get("OTEL_TRACES_EXPORTER", "otlp").strip() != "otlp":
        return False
    return any(environ.get(name, "").strip() for name in _ENDPOINTS)


def protocol(environ: Mapping[str, str]) -> str:
    """``grpc``, unless the variables say ``http/protobuf``.

    Raises:
        StartupRefused: ``otlp_protocol_unsupported``.
    """
    named = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL"
    )
    found = (named or PROTOCOLS[0]).strip()
    if found not in PROTOCOLS:
        msg = f"OTEL_EXPORTER_OTLP_PROTOCOL is `{found}`; {' and '.join(PROTOCOLS)} are known."
        raise StartupRefused(msg, code="otlp_protocol_unsupported")
    return found


def vllm_tracing(environ: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Flags and variables with which vLLM sends its own spans to the same place.

    vLLM takes the endpoint from a flag alone, over HTTP as it is, without adding the path; and of
    the variables that name the protocol it reads the one for traces.
    """
    if not wanted(environ):
        return [], {}
    how = protocol(environ)
    endpoint = (environ.get(_ENDPOINTS[0]) or "").strip()
    if not endpoint:
        endpoint = environ[_ENDPOINTS[1]].strip()
        if how != PROTOCOLS[0]:
            endpoint = f"{endpoint.rstrip('/')}/{_TRACES_PATH}"
    flags = ["--otlp-traces-endpoint", endpoint]
    return flags, {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": how}


def exporter(environ: Mapping[str, str]) -> SpanExporter:
    """The exporter of the protocol; it reads endpoint, headers and certificates by itself."""
    if protocol(environ) == PROTOCOLS[0]:
        from opentelemetry.exporter.otlp.proto.grpc import (  # noqa: PLC0415 - only what is used
            trace_exporter as grpc,
        )

        return grpc.OTLPSpanExporter()
    from opentelemetry.exporter.otlp.proto.http import (  # noqa: PLC0415 - only what is used
        trace_exporter as http,
    )

    return http.OTLPSpanExporter()


class Batches(SpanProcessor):
    """OpenTelemetry's batch processor, which forgets spans in silence, with its losses counted.

    A span that finds as many waiting as the queue takes (``OTEL_BSP_MAX_QUEUE_SIZE``) is dropped
    as ``queue_full``; those of an export that failed, retries included, as ``export_failed``.
    """

    def __init__(self, to: SpanExporter, on_drop: OnDrop) -> None:
        """Export ``to``; ``on_drop(reason, spans)`` may be called from any thread."""
        self._most = int(os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE") or 2048)
        self._waiting = 0
        self._lock = threading.Lock()
        self._on_drop = on_drop
        self._batches = BatchSpanProcessor(_Counted(to, self._left, on_drop))

    def on_end(self, span: ReadableSpan) -> None:
        """Enqueue; never waits."""
        if span.context is None or not span.context.trace_flags.sampled:
            return
        with self._lock:
            room = self._waiting < self._most
            self._waiting += room
        if room:
            self._batches.on_end(span)
        else:
            self._on_drop("queue_full", 1)

    def shutdown(self) -> None:
        """Export what waits, and end."""
        self._batches.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Export what waits."""
        return self._batches.force_flush(timeout_millis)

    def _left(self, spans: int) -> None:
        with self._lock:
            self._waiting -= spans


class _Counted(SpanExporter):
    """An exporter whose failures are told."""

    def __init__(self, to: SpanExporter, left: Callable[[int], None], on_drop: OnDrop) -> None:
        self._to = to
        self._left = left
        self._on_drop = on_drop

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._left(len(spans))
        result = SpanExportResult.FAILURE
        try:
            result = self._to.export(spans)
        finally:
            if result is not SpanExportResult.SUCCESS:
                self._on_drop("export_failed", len(spans))
        return result

    def shutdown(self) -> None:
        self._to.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._to.force_flush(timeout_millis)
