"""A real receiver of OTLP traces on loopback, over gRPC or HTTP, that keeps what it gets."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.proto.common.v1.common_pb2 import AnyValue


@dataclass(frozen=True)
class Received:
    """One span as it came over the wire."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    events: dict[str, dict[str, Any]]
    links: list[tuple[str, str]]
    status: int
    seconds: float
    resource: dict[str, Any]


@dataclass
class Receiver:
    """Use it in ``with``; ``environ`` is what a server needs to send its spans here."""

    protocol: str
    received: list[Received] = field(default_factory=list)

    def __enter__(self) -> Self:
        if self.protocol == "grpc":
            self._grpc = grpc.server(ThreadPoolExecutor(max_workers=2))
            service = _Service(self.take)
            trace_service_pb2_grpc.add_TraceServiceServicer_to_server(service, self._grpc)
            self.port = self._grpc.add_insecure_port("127.0.0.1:0")
            self._grpc.start()
        else:
            take = self.take

            class Handler(BaseHTTPRequestHandler):
                def do_POST(self) -> None:
                    body = self.rfile.read(int(self.headers["content-length"]))
                    known = self.path == "/v1/traces"
                    if known:
                        take(trace_service_pb2.ExportTraceServiceRequest.FromString(body))
                    self.send_response(200 if known else 404)
                    self.send_header("content-length", "0")
                    self.end_headers()

                def log_message(self, *_: object) -> None:
                    pass

            self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            self.port = self._http.server_port
            threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.protocol == "grpc":
            self._grpc.stop(None).wait()
        else:
            self._http.shutdown()
            self._http.server_close()

    @property
    def environ(self) -> dict[str, str]:
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": self.protocol,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }

    def take(self, request: trace_service_pb2.ExportTraceServiceRequest) -> None:
        for resource_spans in request.resource_spans:
            resource = _plain(resource_spans.resource.attributes)
            for scope_spans in resource_spans.scope_spans:
                self.received += [_received(span, resource) for span in scope_spans.spans]

    def wait_for(
        self, wanted: Callable[[Received], bool], count: int = 1, seconds: float = 30.0
    ) -> list[Received]:
        """The spans that are wanted, once there are as many."""
        deadline = time.monotonic() + seconds
        while True:
            found = [span for span in list(self.received) if wanted(span)]
            if len(found) >= count:
                return found
            if time.monotonic() > deadline:
                names = [span.name for span in self.received]
                msg = f"{len(found)} of {count} spans came; received were {names}."
                raise AssertionError(msg)
            time.sleep(0.05)


class _Service(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, take: Callable[[Any], None]) -> None:
        self._take = take

    def Export(self, request: Any, _context: Any) -> Any:  # noqa: N802 - the protocol's name
        self._take(request)
        return trace_service_pb2.ExportTraceServiceResponse()


def _received(span: Any, resource: dict[str, Any]) -> Received:
    return Received(
        name=span.name,
        kind=span.kind,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        attributes=_plain(span.attributes),
        events={event.name: _plain(event.attributes) for event in span.events},
        links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        status=span.status.code,
        seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        resource=resource,
    )


def _plain(attributes: Any) -> dict[str, Any]:
    return {attribute.key: _value(attribute.value) for attribute in attributes}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, str(kind))
