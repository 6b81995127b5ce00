"""What does telemetry cost? One server switches it on and off between short turns of one run.

Turns go round the variants in a drawn order: `off` (nobody listens to an event, no span begins),
`metrics` (everything is counted and remembered), `spans` (and every request is a span that is
exported), `all` (and vLLM exports its own span of each, too). A turn sends many short requests, a
fixed number at once. The figures to trust are ratios within a round, with the interval of their
mean; and the server's own processor time per request, which other processes don't disturb.

    python benchmarks/telemetry.py --model DIR     # the demo model (softprompt_serve.demo.prepare)
"""

from __future__ import annotations

import os
import signal
import statistics
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cost import processor
from serving import Caller, Served, calling, parser, run
from side_by_side import Figures, first_tokens, interval, machine, rounds

from softprompt_serve.telemetry.channel import Events

if TYPE_CHECKING:
    import argparse

OFF, METRICS, SPANS, ALL = VARIANTS = ("off", "metrics", "spans", "all")
PROMPT = "bench"
SWITCHED = "--serve-with-a-switch"


class Switch:
    """In the server: how much telemetry there is, set from outside by a signal."""

    level = VARIANTS.index(ALL)

    @classmethod
    def at_least(cls, variant: str) -> bool:
        return cls.level >= VARIANTS.index(variant)


def signal_of(variant: str) -> int:
    """The signal that chooses a variant."""
    return int(signal.SIGRTMIN) + VARIANTS.index(variant)


def serve_with_a_switch(flags: list[str]) -> None:
    """``softprompt-serve serve`` with everything on, until a signal says otherwise."""
    from vllm.v1.engine.output_processor import OutputProcessor

    from softprompt_serve.server.scope import ScopeMiddleware
    from softprompt_serve.vllm_plugin.launch import serve

    emit, init, trace = Events.emit, ScopeMiddleware.__init__, OutputProcessor.do_tracing

    def switched_emit(events: Events, event: object) -> None:
        if Switch.at_least(METRICS):
            emit(events, event)

    def switched_init(scope: ScopeMiddleware, *given: Any, tracing: Any, **named: Any) -> None:
        def when_on() -> Any:
            return tracing() if Switch.at_least(SPANS) else None

        init(scope, *given, tracing=when_on, **named)

    def switched_trace(processor: OutputProcessor, *given: Any) -> None:
        if Switch.at_least(ALL):
            trace(processor, *given)

    Events.emit = switched_emit  # type: ignore[method-assign]
    ScopeMiddleware.__init__ = switched_init  # type: ignore[method-assign]
    OutputProcessor.do_tracing = switched_trace
    for level, variant in enumerate(VARIANTS):
        signal.signal(signal_of(variant), lambda *_, level=level: setattr(Switch, "level", level))
    serve(flags)


class Sink(BaseHTTPRequestHandler):
    """Takes what is exported and forgets it, as cheaply as Python can."""

    protocol_version = "HTTP/1.1"
    received = 0

    def do_POST(self) -> None:
        """Answer an export."""
        Sink.received += len(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
        """Say nothing."""


class Bench:
    """The server's callers."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.rates, self.seconds = Figures(), Figures()

    async def run(self, served: Served) -> None:
        """All rounds; the first warms up."""
        async with calling(served, self.options.seed) as caller:
            await caller.upload(PROMPT, "v1", caller.rows(self.options.rows))
            await caller.alias(PROMPT, "v1")
            for number in rounds(self.options.rounds):
                for variant in caller.rng.sample(VARIANTS, len(VARIANTS)):
                    os.kill(served.pid, signal_of(variant))
                    rate, seconds = await self._turn(caller)
                    if number:
                        self.rates.add(variant, rate)
                        self.seconds.add(variant, seconds)

    async def _turn(self, caller: Caller) -> tuple[float, float]:
        """Requests per second, and processor seconds of the server's own process for each."""
        options, pid = self.options, caller.served.pid
        bodies = [
            caller.body(PROMPT, caller.ids(options.visible), options.output)
            for _ in range(options.requests)
        ]
        used = processor.seconds_alone(pid)
        _, seconds = await first_tokens(caller.client, bodies, options.concurrency)
        return len(bodies) / seconds, (processor.seconds_alone(pid) - used) / len(bodies)


def table(bench: Bench) -> str:
    """Markdown: rates, their ratio within a round, and processor time."""
    options = bench.options
    lines = [
        (
            f"{options.requests} requests a turn, {options.concurrency} at once, {options.rows} "
            f"virtual + {options.visible} visible tokens, {options.output} generated; "
            f"{options.rounds} rounds.\n"
        ),
        "| telemetry | requests/s | ÷ off, mean with its 95 % interval | API server, ms/request |",
        "| --- | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {variant} | {bench.rates.median(variant):.2f} "
        f"| {interval(bench.rates.ratios(variant, OFF)) if variant != OFF else '1'} "
        f"| {1000 * statistics.mean(bench.seconds.rounds[variant]):.2f} |"
        for variant in VARIANTS
    ]
    return "\n".join([*lines, f"\n{Sink.received} bytes of spans were exported."])


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    line = parser(__doc__, rounds=30)
    line.add_argument("--rows", type=int, default=20, help="virtual tokens")
    line.add_argument("--visible", type=int, default=16, help="visible tokens")
    line.add_argument("--output", type=int, default=4, help="generated tokens")
    line.add_argument("--concurrency", type=int, default=8)
    line.add_argument("--requests", type=int, default=48, help="per turn")
    return line.parse_args(given)


def main(given: list[str] | None = None) -> None:
    """Run and print a Markdown table."""
    options = arguments(given)
    bench = Bench(options)
    sink = ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    threading.Thread(target=sink.serve_forever, daemon=True).start()
    exporting = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{sink.server_port}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    }
    program = (str(Path(__file__).absolute()), SWITCHED)
    run(bench, options, "--enforce-eager", program=program, environment=exporting)
    print(f"{table(bench)}\n\n{machine()}")


if __name__ == "__main__":
    if SWITCHED in sys.argv[1:2]:
        serve_with_a_switch(sys.argv[2:])
    else:
        main()
