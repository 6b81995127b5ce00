"""A server as a child process: started, watched through its log, stopped with all it started."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

STOP_SECONDS: Final = 30.0
_LEFTOVER_SECONDS: Final = 5.0
_TAIL_BYTES: Final = 64 * 1024
_REFUSAL: Final = "softprompt-serve refuses to start: "

FIRST_PHASE: Final = "importing vLLM"
PHASES: Final = (
    ("Resolved architecture", "reading the model's configuration"),
    ("Initializing a V1 LLM engine", "starting the engine"),
    ("Starting to load model", "loading the weights"),
    ("Loading weights took", "reserving memory and warming up"),
    ("Compiling a graph", "compiling (kept for the next start)"),
    ("init engine (profile", "starting the API server"),
    ("Loading plugin softprompt_serve", "starting the API server"),
    ("Starting vLLM server", "proving that soft prompts take effect"),
)
"""What vLLM 0.32 logs when it begins a step, and what to call that step."""


class Server:
    """``command`` as a child with its output in ``log``; use it in ``with``, which stops it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._command = list(command)
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._read = 0
        self.log = log
        self.phase = FIRST_PHASE

    def __enter__(self) -> Self:
        """Start it; the log of the start before is kept beside this one's."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists():
            self.log.replace(self.log.with_name(f"{self.log.name}.1"))
        with self.log.open("wb") as sink:
            self._process = subprocess.Popen(  # noqa: S603 - our own command, no shell
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                # A session of its own: Ctrl-C must reach it once, through stop(), and whatever
                # it starts can be found again by its group.
                start_new_session=True,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether it is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id, which is that of the session of all that it starts.

        Raises:
            RuntimeError: it has not been started.
        """
        if self._process is None:
            msg = "The server has not been started."
            raise RuntimeError(msg)
        return self._process.pid

    def wait(self) -> int:
        """Its exit status, once it has ended."""
        return 0 if self._process is None else self._process.wait()

    def stop(self) -> None:
        """Ask it to end and wait; kill what is left. Interrupted while waiting, it kills at once."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(KeyboardInterrupt, subprocess.TimeoutExpired):
            if process.poll() is None:
                process.terminate()
                process.wait(STOP_SECONDS)
            _until_gone(process.pid, _LEFTOVER_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._process = None

    def follow(self) -> str:
        """The phase of its start, after reading what the log has gained."""
        with self.log.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        # A line that is still being written is read again, whole, the next time.
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        self.phase = phase_after(whole.decode(errors="replace").splitlines(), self.phase)
        return self.phase

    def tail(self, lines: int = 25) -> list[str]:
        """The log's last lines."""
        with self.log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()[-lines:]


def phase_after(lines: Iterable[str], before: str) -> str:
    """The phase that the last telling line of ``lines`` began, else ``before``."""
    found = before
    for line in lines:
        found = next((phase for sign, phase in PHASES if sign in line), found)
    return found


def refusal_in(lines: Iterable[str]) -> str | None:
    """Our own reason for not starting, if the log gives one."""
    for line in map(_message, lines):
        _, found, reason = line.partition(_REFUSAL)
        if found:
            return reason.strip()
    return None


def _message(line: str) -> str:
    """A line, or what it says if it is JSON."""
    if line.startswith("{"):
        with contextlib.suppress(ValueError):
            return str(json.loads(line).get("message", ""))
    return line


def _until_gone(group: int, seconds: float) -> None:
    """Let what the child started end by itself: it has shared memory to clean up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
