"""What does telemetry cost? Requests per second with everything on and with nothing, side by side.

Two servers take turns on one machine, and the other one idles: `on` counts every metric and
traces every request to an OTLP receiver on loopback; `off` has no listener at all. A turn sends many short requests, a fixed number at once, over connections that are kept. The
figure to trust is the ratio of the two within a round.

    python benchmarks/telemetry.py --model DIR     # the demo model (softprompt_serve.demo.prepare)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import safetensors.torch
import torch
from side_by_side import Figures, free_port, machine, spread, wait_ready

from softprompt_serve.demo.child import Server
from softprompt_serve.telemetry.channel import Events

ON, OFF = "on", "off"
VARIANTS = (ON, OFF)
BASE, TOKEN = "base", "a-token-for-benchmarks"
ADMIN = "/softprompts/v1"
SILENT = "--serve-without-listeners"


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
    """One server's callers."""

    def __init__(self, options: argparse.Namespace, config: dict[str, int], url: str) -> None:
        self.options = options
        self.hidden_size, self.vocabulary = config["hidden_size"], config["vocab_size"]
        self.rng = random.Random(options.seed)
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

    async def turn(self) -> float:
        """Requests per second, of as many as one turn has."""
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

        begun = time.perf_counter()
        await asyncio.gather(*(ask() for _ in range(self.options.requests)))
        return self.options.requests / (time.perf_counter() - begun)


async def measure(benches: dict[str, Bench], rounds: int) -> Figures:
    """Rounds of both, beginning with each in turn."""
    found = Figures()
    try:
        for bench in benches.values():
            await bench.upload()
        for number in range(rounds + 1):  # the first warms up
            for variant in VARIANTS if number % 2 else VARIANTS[::-1]:
                rate = await benches[variant].turn()
                if number:
                    found.add(variant, rate)
            print(f"  round {number} of {rounds}", file=sys.stderr, flush=True)
    finally:
        for bench in benches.values():
            await bench.client.aclose()
    return found


def table(found: Figures, options: argparse.Namespace) -> str:
    """Markdown: the medians, and the ratio within a round."""
    lines = [
        (
            f"{options.requests} requests a turn, {options.concurrency} at once, {options.rows} "
            f"virtual + {options.visible} visible tokens, {options.output} generated; "
            f"{options.rounds} rounds.\n"
        ),
        "| telemetry | requests/s | ÷ off |",
        "| --- | ---: | ---: |",
    ]
    lines += [
        f"| {variant} | {found.median(variant):.2f} | {spread(found.ratios(variant, OFF))} |"
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
    parser.add_argument("--requests", type=int, default=200, help="per turn")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--metrics-only", action="store_true", help="`on` does not trace")
    parser.add_argument(
        "--control", action="store_true", help="`on` is off, too: what the arrangement itself does"
    )
    return parser.parse_args()


def serve_without_listeners(flags: list[str]) -> None:
    """``softprompt-serve serve`` whose events nobody hears: what a server costs without telemetry."""
    from softprompt_serve.vllm_plugin.launch import serve

    Events.listen = lambda *_: None  # type: ignore[method-assign]
    serve(flags)


def main() -> None:
    """Run and print a Markdown table."""
    if SILENT in sys.argv[1:2]:
        serve_without_listeners(sys.argv[2:])
        return
    options = arguments()
    config = json.loads((options.model / "config.json").read_text())
    sink = ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    threading.Thread(target=sink.serve_forever, daemon=True).start()
    traced = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{sink.server_port}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    }
    silent = [sys.executable, str(Path(__file__).absolute()), SILENT]
    programs: dict[str, tuple[list[str], dict[str, str]]] = {
        ON: ([sys.executable, "-m", "softprompt_serve.cli", "serve"], traced),
        OFF: (silent, {}),
    }
    if options.control:
        programs[ON] = (silent, {})
    elif options.metrics_only:
        programs[ON] = (programs[ON][0], {})
    benches: dict[str, Bench] = {}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        for variant, (program, extra) in programs.items():
            port = free_port()
            flags = [
                *("--served-model-name", BASE, "--dtype", "float32", "--max-model-len", "512"),
                *("--enforce-eager", "--host", "127.0.0.1", "--port", str(port)),
            ]
            home = Path(scratch) / variant
            environment = {"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ, **extra} | {
                "SOFTPROMPT_HOME": str(home),
                "SOFTPROMPT_ADMIN_TOKEN": TOKEN,
            }
            command = [*program, str(options.model.absolute()), *flags]
            server = stack.enter_context(Server(command, environment, home / "log"))
            url = f"http://127.0.0.1:{port}"
            wait_ready(server, url)
            benches[variant] = Bench(options, config, url)
        found = asyncio.run(measure(benches, options.rounds))
    print(
        f"{table(found, options)}\n\n{Sink.received} bytes of spans were exported.\n\n{machine()}"
    )


if __name__ == "__main__":
    main()
