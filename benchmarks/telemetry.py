"""What does telemetry cost? One server switches it on and off between short turns of one run.

Turns go round the variants in a drawn order: `off` (nobody listens to an event, no span begins),
`metrics` (everything is counted and remembered), `spans` (and every request is a span that is
exported), `all` (and vLLM exports its own span of each, too). A turn sends many short requests, a
fixed number at once. The figures to trust are ratios within a round, with the interval of their
mean; and the server's own processor time per request, which other processes don't disturb.

    python benchmarks/telemetry.py --model DIR     # the demo model (softprompt_serve.demo.prepare)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import safetensors.torch
import torch
from side_by_side import Figures, free_port, interval, machine, wait_ready

from softprompt_serve.demo.child import Server
from softprompt_serve.telemetry.channel import Events

OFF, METRICS, SPANS, ALL = VARIANTS = ("off", "metrics", "spans", "all")
BASE, TOKEN = "base", "a-token-for-benchmarks"
ADMIN = "/softprompts/v1"
SWITCHED = "--serve-with-a-switch"
TICKS = os.sysconf("SC_CLK_TCK")


class Switch:
    """In the server: how much telemetry there is, set from outside by a signal."""

    level = VARIANTS.index(ALL)

    @classmethod
    def at_least(cls, variant: str) -> bool:
        return cls.level >= VARIANTS.index(variant)


def signal_of(variant: str) -> int:
    """The signal that chooses a variant."""
    return int(signal.SIGRTMIN) + VARIANTS.index(variant)


def serve_with_a_switch(pid_file: Path, flags: list[str]) -> None:
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
    pid_file.write_text(str(os.getpid()))
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

    def __init__(
        self, options: argparse.Namespace, config: dict[str, int], url: str, pid: int
    ) -> None:
        self.options = options
        self.pid = pid
        self.hidden_size, self.vocabulary = config["hidden_size"], config["vocab_size"]
        self.rng = random.Random(options.seed)
        self.rates, self.seconds = Figures(), Figures()
        self.client = httpx.AsyncClient(base_url=url, timeout=600, trust_env=False)

    async def upload(self) -> None:
        """One version of random rows, in production."""
        rows = torch.randn(self.options.rows, self.hidden_size) * 0.02
        headers = {"authorization": f"Bearer {TOKEN}"}
        answer = await self.client.post(
            f"{ADMIN}/prompts/bench/versions",
            headers=headers,
            files={"tensor": ("rows.safetensors", safetensors.torch.save({"rows": rows}))},
        )
        answer.raise_for_status()
        answer = await self.client.put(
            f"{ADMIN}/prompts/bench/aliases/production", headers=headers, json={"version": "v1"}
        )
        answer.raise_for_status()

    async def run(self) -> None:
        """All rounds; the first warms up."""
        async with self.client:
            await self.upload()
            for number in range(self.options.rounds + 1):
                for variant in self.rng.sample(VARIANTS, len(VARIANTS)):
                    os.kill(self.pid, signal_of(variant))
                    rate, seconds = await self._turn()
                    if number:
                        self.rates.add(variant, rate)
                        self.seconds.add(variant, seconds)
                print(f"  round {number} of {self.options.rounds}", file=sys.stderr, flush=True)

    async def _turn(self) -> tuple[float, float]:
        """Requests per second, and processor seconds of the server's own process for each."""
        free = asyncio.Semaphore(self.options.concurrency)

        async def ask() -> None:
            ids = [
                self.rng.randrange(100, self.vocabulary - 100) for _ in range(self.options.visible)
            ]
            body = {"model": "bench", "prompt": ids, "max_tokens": self.options.output}
            body |= {"ignore_eos": True, "temperature": 0}
            async with free:
                answer = await self.client.post("/v1/completions", json=body)
            answer.raise_for_status()

        requests = self.options.requests
        begun, used = time.perf_counter(), self._processor_seconds()
        await asyncio.gather(*(ask() for _ in range(requests)))
        rate = requests / (time.perf_counter() - begun)
        return rate, (self._processor_seconds() - used) / requests

    def _processor_seconds(self) -> float:
        """What the API server's process has used, all threads of it; the engine is another one."""
        after_name = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        user, system = after_name[11:13]
        return (int(user) + int(system)) / TICKS


def table(bench: Bench, options: argparse.Namespace) -> str:
    """Markdown: rates, their ratio within a round, and processor time."""
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
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the demo model")
    parser.add_argument("--rows", type=int, default=20, help="virtual tokens")
    parser.add_argument("--visible", type=int, default=16, help="visible tokens")
    parser.add_argument("--output", type=int, default=4, help="generated tokens")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--requests", type=int, default=48, help="per turn")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Run and print a Markdown table."""
    if SWITCHED in sys.argv[1:2]:
        serve_with_a_switch(Path(sys.argv[2]), sys.argv[3:])
        return
    options = arguments()
    config = json.loads((options.model / "config.json").read_text())
    sink = ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    threading.Thread(target=sink.serve_forever, daemon=True).start()
    port = free_port()
    flags = [
        *("--served-model-name", BASE, "--dtype", "float32", "--max-model-len", "512"),
        *("--enforce-eager", "--host", "127.0.0.1", "--port", str(port)),
    ]
    with tempfile.TemporaryDirectory() as scratch:
        home, pid_file = Path(scratch) / "home", Path(scratch) / "pid"
        environment = {"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ} | {
            "SOFTPROMPT_HOME": str(home),
            "SOFTPROMPT_ADMIN_TOKEN": TOKEN,
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{sink.server_port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        }
        program = [sys.executable, str(Path(__file__).absolute()), SWITCHED, str(pid_file)]
        command = [*program, str(options.model.absolute()), *flags]
        with Server(command, environment, home / "log") as server:
            url = f"http://127.0.0.1:{port}"
            wait_ready(server, url)
            bench = Bench(options, config, url, int(pid_file.read_text()))
            asyncio.run(bench.run())
    print(
        f"{table(bench, options)}\n\n{Sink.received} bytes of spans were exported.\n\n{machine()}"
    )


if __name__ == "__main__":
    main()
