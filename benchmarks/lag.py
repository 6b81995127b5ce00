"""Does anything hold the server's event loop? Each step of the loop, timed, by what goes on.

While a step runs, no other request of that process moves. The benchmark's server times every step
by the thread's processor time (so that neither other processes nor other threads' work count) under
constant traffic: alone, and with swaps, uploads of the largest version that the model takes, files as
large as any that is accepted (refused for their shape), and evidence. What counts is what a case adds
to the traffic alone.

    python benchmarks/lag.py --model DIR          # the demo model (softprompt_serve.demo.prepare)
    python benchmarks/lag.py --model DIR --alone  # without an engine and traffic: our own steps
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from serving import ADMIN, TOKEN, Caller, Served, calling, serving
from side_by_side import first_token, machine
from stopwatch import LONG_SECONDS, Stopwatch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Coroutine

TIMED, ALONE = "--serve-with-a-stopwatch", "--serve-alone-with-a-stopwatch"
ROWS, WIDE_ROWS = 1024, 3800
PROMPT = "lag"


def serve_with_a_stopwatch(file: Path, flags: list[str]) -> None:
    """``softprompt-serve serve``, timed; on asyncio's own loop, as uvloop's steps can't be."""
    import uvloop

    from softprompt_serve.vllm_plugin.launch import serve

    uvloop.run = asyncio.run
    Stopwatch(file).install()
    serve(flags)


def serve_alone(file: Path, model: Path, flags: list[str]) -> None:
    """Our own routes and middleware, timed, with workers that only keep count: no vLLM."""
    import uvicorn

    from softprompt_serve.settings import load_settings
    from softprompt_serve.testing import FakeWorkers, app_for_tests, service_for_tests

    class Workers(FakeWorkers):
        async def load(self, header: bytes, data: bytes, keep: Collection[str]) -> tuple[str, ...]:
            """In a thread: with an engine, the workers do this."""
            loading = super().load(header, data, keep)
            return await asyncio.to_thread(_result, loading)

    settings = load_settings()
    hidden = json.loads((model / "config.json").read_text())["hidden_size"]
    workers = Workers(capacity=1_000_000, hidden_size=hidden)
    app = app_for_tests(service_for_tests(settings.home_dir, workers=workers, settings=settings))

    @app.get("/v1/models")
    def ready() -> dict[str, str]:
        return {}

    Stopwatch(file).install()
    port = int(flags[flags.index("--port") + 1])
    config = uvicorn.Config(app, port=port, log_level="warning", ws="none", loop="asyncio")
    asyncio.run(uvicorn.Server(config).serve())


def _result(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Of one that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        return ended.value
    raise RuntimeError(coroutine)


class Bench:
    """Traffic, and what goes on beside it."""

    def __init__(self, options: argparse.Namespace, caller: Caller, file: Path) -> None:
        self.options = options
        self.caller = caller
        self.file = file
        self.found: dict[str, dict[str, Any]] = {}
        self._number = 0
        self._headers = {"authorization": f"Bearer {TOKEN}"}

    async def run(self) -> None:
        """Each case for as long as the others."""
        for name in ("v1", "v2"):
            await self.caller.upload(PROMPT, name, self.caller.rows(20))
        await self.caller.alias(PROMPT, "v1")
        cases: dict[str, Callable[[], Awaitable[None]]] = {
            "warm-up": self._nothing,
            "traffic alone": self._nothing,
            "swaps": self._swap,
            f"uploads of {ROWS} rows": self._upload,
            "uploads of 60 MB that are refused": self._refused,
        }
        for name, work in cases.items():
            self.found[name] = await self._case(work)
            print(f"  {name}", file=sys.stderr, flush=True)
        del self.found["warm-up"]

    async def _case(self, work: Callable[[], Awaitable[None]]) -> dict[str, Any]:
        await self._read()
        end, done = time.monotonic() + self.options.seconds, 0
        users = [asyncio.create_task(self._user(end)) for _ in range(self.options.concurrency)]
        while time.monotonic() < end:
            await work()
            done += 1
        await asyncio.gather(*users)
        return {**await self._read(), "done": done}

    async def _user(self, end: float) -> None:
        while time.monotonic() < end:
            body = self.caller.body(PROMPT, self.caller.ids(20), 8)
            await first_token(self.caller.client, body)

    async def _nothing(self) -> None:
        await asyncio.sleep(0.2)

    async def _swap(self) -> None:
        self._number += 1
        await self.caller.alias(PROMPT, f"v{1 + self._number % 2}")
        await asyncio.sleep(0.1)

    async def _upload(self) -> None:
        self._number += 1
        await self.caller.upload(PROMPT, f"big{self._number}", self.caller.rows(ROWS))
        await asyncio.sleep(0.1)

    async def _refused(self) -> None:
        data = safetensors.torch.save({"prompt_embeddings": torch.zeros(WIDE_ROWS, 4096)})
        answer = await self.caller.client.post(
            f"{ADMIN}/prompts/{PROMPT}/versions",
            headers=self._headers,
            files={"tensor": ("rows.safetensors", data)},
        )
        if not answer.is_client_error:
            raise RuntimeError(answer.text)
        await asyncio.sleep(0.1)

    async def _read(self) -> dict[str, Any]:
        self.file.unlink(missing_ok=True)
        os.kill(self.caller.served.pid, signal.SIGUSR1)
        while not self.file.exists():  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.05)
        found: dict[str, Any] = json.loads(self.file.read_text())
        return found


def table(found: dict[str, dict[str, Any]], options: argparse.Namespace) -> str:
    """Markdown: steps by case, and what the long ones were."""
    lines = [
        (
            f"{options.concurrency} callers, {options.seconds:.0f} s a case; milliseconds of the "
            "thread's processor time.\n"
        ),
        "| case | done | steps | 99.9th percentile | longest | over 1 ms |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, case in found.items():
        steps, count = case["steps"], case["count"]
        rare = steps[-max(1, count // 1000)] if steps else 0.0
        over = sum(1 for seconds in steps if seconds > LONG_SECONDS)
        lines.append(
            f"| {name} | {case['done']} | {count} | {1000 * rare:.2f} "
            f"| {1000 * max(steps, default=0.0):.2f} | {over} |"
        )
    lines.append("\nThe longest steps over 1 ms: what they belong to, and where they were seen.\n")
    for name, case in found.items():
        lines.append(f"- {name}: {'' if case['long'] else 'none'}".rstrip())
        lines += [f"  - {1000 * seconds:.2f} ms: `{what}`" for seconds, what in case["long"]]
    return "\n".join(lines)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the demo model")
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each case")
    parser.add_argument("--alone", action="store_true", help="no engine, no traffic: our own steps")
    found = parser.parse_args(given)
    if found.alone:
        found.concurrency = 0
    return found


async def measured(options: argparse.Namespace, served: Served, file: Path) -> Bench:
    """All cases on one server."""
    async with calling(served) as caller:
        bench = Bench(options, caller, file)
        await bench.run()
        return bench


def main(given: list[str] | None = None) -> None:
    """Run and print Markdown."""
    if TIMED in sys.argv[1:2]:
        serve_with_a_stopwatch(Path(sys.argv[2]), sys.argv[3:])
        return
    if ALONE in sys.argv[1:2]:
        serve_alone(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
        return
    options = arguments(given)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "steps.json"
        how = ALONE if options.alone else TIMED
        program = (str(Path(__file__).absolute()), how, str(file))
        flags = ("--max-model-len", "2048", "--enforce-eager")
        with serving(options.model, *flags, program=program) as served:
            bench = asyncio.run(measured(options, served, file))
    print(f"{table(bench.found, options)}\n\n{machine()}")


if __name__ == "__main__":
    main()
