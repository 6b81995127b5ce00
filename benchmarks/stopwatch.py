"""Times every step of an asyncio loop by its thread's processor time, and says what the long ones were."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

LONG_SECONDS = 0.001
LOOK_SECONDS = 0.0008


class Stopwatch:
    """In the server: processor seconds of the loop's steps since it was last asked.

    A step that lasts is looked into by a timer: where it was shortly before it had lasted too long.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.steps: list[float] = []
        self.long: list[tuple[float, str]] = []
        self._begun = 0.0
        self._seen: list[tuple[str, ...]] = []
        self._collecting = self._collected = 0.0

    def install(self) -> None:
        """Time every step from now on; on SIGUSR1 write what was found, and begin anew."""
        run = asyncio.Handle._run  # noqa: SLF001 - no other place sees every step

        def timed(handle: asyncio.Handle) -> None:
            self._seen, self._collected = [], 0.0
            self._begun = begun = time.thread_time()
            signal.setitimer(signal.ITIMER_REAL, LOOK_SECONDS, LOOK_SECONDS)
            run(handle)
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            seconds = time.thread_time() - begun
            self.steps.append(seconds)
            if seconds > LONG_SECONDS:
                self.long.append((seconds, self._told(handle)))

        asyncio.Handle._run = timed  # type: ignore[method-assign]  # noqa: SLF001
        signal.signal(signal.SIGALRM, self._look)
        signal.signal(signal.SIGUSR1, lambda *_: self.write())
        gc.callbacks.append(self._collects)

    def _look(self, _number: int, frame: FrameType | None) -> None:
        """Where the step is now; the clock runs while others have the processor, so ask it."""
        if not self._seen and time.thread_time() - self._begun >= LOOK_SECONDS:
            self._seen.append(_place(frame))

    def _collects(self, phase: str, _info: object) -> None:
        now = time.thread_time()
        if phase == "start":
            self._collecting = now
        else:
            self._collected += now - self._collecting

    def _told(self, handle: asyncio.Handle) -> str:
        places = [" below ".join(one.rpartition("/")[2] for one in seen) for seen in self._seen]
        said = [_named(handle), *places]
        if self._collected:
            said.append(f"garbage {1000 * self._collected:.2f} ms")
        return ", ".join(said)

    def write(self) -> None:
        """Leave what was found in the file, whole or not at all."""
        steps, self.steps = self.steps, []
        long, self.long = self.long, []
        long.sort(reverse=True)
        found = {"steps": sorted(steps)[-2000:], "count": len(steps), "long": long[:8]}
        draft = self.file.with_suffix(".draft")
        draft.write_text(json.dumps(found))
        draft.replace(self.file)


def _named(handle: asyncio.Handle) -> str:
    """What a step belongs to: a task's coroutine and where it waits now, or a function."""
    callback: Any = handle._callback  # noqa: SLF001
    if callback is None:
        return "a read that paused or closed its connection"
    task = getattr(callback, "__self__", None)
    if isinstance(task, asyncio.Task):
        frames = task.get_stack(limit=1)
        place = f" at {Path(frames[0].f_code.co_filename).name}" if frames else ""
        return f"{getattr(task.get_coro(), '__qualname__', task)}{place}"
    return str(getattr(callback, "__qualname__", callback))


def _place(frame: FrameType | None) -> tuple[str, ...]:
    """File, line and function of the innermost frame, and of the innermost one of ours."""
    inner, ours = frame, frame
    while ours is not None and "softprompt_serve" not in ours.f_code.co_filename:
        ours = ours.f_back
    return tuple(
        f"{found.f_code.co_filename}:{found.f_lineno} {found.f_code.co_name}"
        for found in dict.fromkeys((inner, ours))
        if found is not None
    )
