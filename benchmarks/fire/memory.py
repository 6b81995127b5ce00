"""What a server's processes hold, over time: memory, threads and open files."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_MIB: Final = 1024 * 1024
_PAGE: Final = 4096
_RSS: Final = 1  # field of /proc/PID/statm


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at one process."""

    seconds: float
    rss_mib: float
    threads: int
    files: int


@dataclass
class Watch:
    """The processes of a session, by what they are."""

    session: int
    samples: dict[str, list[Sample]] = field(default_factory=dict)

    def look(self, seconds: float) -> None:
        """Take a sample of each process that there is; ``seconds`` since the beginning."""
        for pid in members(self.session):
            try:
                name = f"{name_of(pid)} {pid}"
                sample = Sample(
                    seconds,
                    int(Path(f"/proc/{pid}/statm").read_text().split()[_RSS]) * _PAGE / _MIB,
                    len(list(Path(f"/proc/{pid}/task").iterdir())),
                    len(list(Path(f"/proc/{pid}/fd").iterdir())),
                )
            except (FileNotFoundError, ProcessLookupError):
                continue
            self.samples.setdefault(name, []).append(sample)


def slope(samples: list[Sample], *, skip: float = 0.25) -> float:
    """MiB an hour, by least squares, without the first part, in which caches fill."""
    kept = samples[int(len(samples) * skip) :]
    if len(kept) < 3:  # noqa: PLR2004 - a line through two points says nothing
        return 0.0
    line = statistics.linear_regression([s.seconds for s in kept], [s.rss_mib for s in kept])
    return line.slope * 3600


def members(session: int) -> list[int]:
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                fields = (path / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[3]) == session:
                found.append(int(path.name))
    return sorted(found)


def name_of(pid: int) -> str:
    command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    for said, name in (
        ("EngineCore", "engine core"),
        ("Worker", "worker"),
        ("serve", "API server"),
    ):
        if said in command:
            return name
    return command.split(" ", maxsplit=1)[0].rpartition("/")[2] or "process"
