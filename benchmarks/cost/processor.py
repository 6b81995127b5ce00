"""Processor time of a process and those that it started, which other load disturbs little."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

TICKS: Final = os.sysconf("SC_CLK_TCK")
_PARENT, _SESSION, _USER, _SYSTEM = 1, 3, 11, 12


class Process(NamedTuple):
    """A line of ``/proc/PID/stat``, see proc(5): who it is, and ticks of processor time."""

    pid: int
    parent: int
    session: int
    ticks: int

    @classmethod
    def read(cls, line: str) -> Process:
        """The command in brackets may hold anything, also brackets."""
        before, _, after = line.rpartition(")")
        fields = after.split()
        return cls(
            int(before.split(maxsplit=1)[0]),
            int(fields[_PARENT]),
            int(fields[_SESSION]),
            int(fields[_USER]) + int(fields[_SYSTEM]),
        )


def ticks(processes: Iterable[Process], root: int) -> int:
    """Of ``root`` and what descends from it in the same session; a server has one of its own."""
    known = {process.pid: process for process in processes}
    session = known[root].session

    def belongs(process: Process | None) -> bool:
        while process is not None and process.session == session:
            if process.pid == root:
                return True
            process = known.get(process.parent)
        return False

    return sum(process.ticks for process in known.values() if belongs(process))


def seconds(root: int) -> float:
    """What ``root`` and its own have used until now; system and user."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        # It may end meanwhile.
        with contextlib.suppress(OSError):
            found.append(Process.read(path.read_text()))
    return ticks(found, root) / TICKS


def seconds_alone(pid: int) -> float:
    """What this process has used until now, all threads of it, and none that it started."""
    return Process.read(Path(f"/proc/{pid}/stat").read_text()).ticks / TICKS
