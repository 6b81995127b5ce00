"""Long steps, one line each, with the seconds they took."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

LOG_TAIL_LINES = 40
TICK_SECONDS = 1.0


class StepFailedError(Exception):
    """A command ended with another status than 0.

    Attributes:
        output: everything it wrote, stdout and stderr together.
    """

    def __init__(self, title: str, command: Sequence[str], status: int, output: str) -> None:
        super().__init__(f"{title}: {' '.join(command)} ended with status {status}")
        self.output = output

    def report(self) -> str:
        """The message and the end of the output, for a person."""
        tail = "\n".join(self.output.splitlines()[-LOG_TAIL_LINES:])
        return f"{tail}\n\nerror: {self}"


def note(text: str) -> None:
    """Print one line that is not a step."""
    print(f"  {text}", flush=True)


def step(title: str, command: Sequence[str], env: Mapping[str, str] | None, log: Path) -> None:
    """Run `command`, silently but for one line that counts seconds on a terminal.

    Its output goes to `log`, which is kept.

    Raises:
        StepFailedError: the command ended with another status than 0.
    """
    started = time.monotonic()
    live = sys.stdout.isatty()
    print(f"  {title} ...", end="", flush=True)
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, env=env
        )
        while True:
            try:
                status = process.wait(TICK_SECONDS)
                break
            except subprocess.TimeoutExpired:
                if live:
                    elapsed = time.monotonic() - started
                    print(f"\r  {title} ... {elapsed:.0f} s", end="", flush=True)
            except KeyboardInterrupt:
                process.wait()
                raise
    elapsed = time.monotonic() - started
    ending = "" if status == 0 else " failed"
    print(f"\r  {title} ... {elapsed:.1f} s{ending}" if live else f" {elapsed:.1f} s{ending}")
    if status != 0:
        raise StepFailedError(title, command, status, log.read_text(errors="replace"))
