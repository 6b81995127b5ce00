"""Where does a request's time go in our code? Every step of its path, in microseconds.

No engine: the real middleware, catalogue, router, residency, wrappers and listeners, with stand-ins
for vLLM's renderer and engine client and vLLM's own request and sampling parameters. Each step is
timed by itself, many times in a row; what is in it that is not ours is timed alone and taken off. The
figures are processor time, the least of the repeats, for a soft version, a hard one, and the plain base model.

    python benchmarks/profile_request.py
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import tempfile
import time
from pathlib import Path

from request_path import (
    HARD,
    HIDDEN_SIZE,
    MODELS,
    ROWS,
    SOFT,
    TEXT_CHARS,
    Lines,
    Server,
    Step,
    Work,
    soft_artifact,
    steps,
)
from side_by_side import machine
from stand_ins import OUTPUTS, VISIBLE

from softprompt_serve.artifact.load import hard
from softprompt_serve.registry.access import AccessTokens
from softprompt_serve.release.records import parse_record
from softprompt_serve.server import scope as request_scope
from softprompt_serve.telemetry import request_log
from softprompt_serve.telemetry.logs import JsonLines
from softprompt_serve.telemetry.redaction import SECRETS
from softprompt_serve.testing import FakeWorkers, service_for_tests, settings_for_tests


async def microseconds(step: Step, calls: int, repeats: int) -> float:
    """Processor time of one call, the least of the repeats, less what is not ours."""

    async def mean(work: Work) -> float:
        begun = time.thread_time()
        for _ in range(calls):
            await work()
        return (time.thread_time() - begun) / calls

    ours, others = [], [0.0] if step.without is None else []
    for _ in range(repeats):
        ours.append(await mean(step.work))
        if step.without is not None:
            others.append(await mean(step.without))
    return 1e6 * (min(ours) - min(others))


async def measured(home: Path, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Microseconds by step and model."""
    settings = settings_for_tests(home, caller_access="tokens")
    service = service_for_tests(
        home, workers=FakeWorkers(hidden_size=HIDDEN_SIZE), settings=settings
    )
    _, minted = AccessTokens(service.catalogue.database).create("an-app", ("caller",))
    await service.start()
    found: dict[str, dict[str, float]] = {}
    try:
        limits, record = service.served.limits, parse_record(None)
        for name, artifact in (
            (SOFT, soft_artifact()),
            (HARD, hard("A text. " * (TEXT_CHARS // 8), limits)),
        ):
            await service.import_version(name, None, artifact, record, None)
            await service.set_alias(name, "production", "v1", None)
        server = Server(service, minted.text)
        for model in MODELS:
            for step in await steps(server, model):
                took = await microseconds(step, options.calls, options.repeats)
                found.setdefault(step.name, {})[model] = took
    finally:
        await service.close()
    return found


def table(found: dict[str, dict[str, float]], options: argparse.Namespace) -> str:
    """Markdown: a row for each step, and their sum."""
    lines = [
        (
            f"Microseconds of processor time, the least of {options.repeats} x {options.calls} calls; {ROWS} virtual and "
            f"{VISIBLE} visible tokens, a text of {TEXT_CHARS} characters, {OUTPUTS} outputs.\n"
        ),
        "| step | soft | hard | plain base model |",
        "| --- | ---: | ---: | ---: |",
    ]
    sums = {model: sum(each[model] for each in found.values()) for model in MODELS}
    for name, each in (*found.items(), ("all", sums)):
        lines.append(f"| {name} | {' | '.join(f'{each[model]:.1f}' for model in MODELS)} |")
    return "\n".join(lines)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--calls", type=int, default=2000, help="in a row, of each step")
    parser.add_argument("--repeats", type=int, default=9)
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    """Run and print a Markdown table."""
    options = arguments(given)
    SECRETS.learn("a-secret-of-the-settings", "another-secret")
    SECRETS.watch()
    handler = Lines()
    handler.setFormatter(JsonLines(context=request_scope.log_fields))
    request_log.logger.addHandler(handler)
    request_log.logger.setLevel(logging.INFO)
    request_log.logger.propagate = False
    with tempfile.TemporaryDirectory() as scratch:
        found = asyncio.run(measured(Path(scratch), options))
    print(f"{table(found, options)}\n\n{machine()}")


if __name__ == "__main__":
    main()
