"""Tools that come from Debian: ``python scripts/debian.py prometheus`` says where one is.

What is on the path is taken. Else root installs the package with apt-get; whoever is not root gets it
unpacked into ``.tools``, which changes nothing on the system.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT: Final = Path(__file__).resolve().parent.parent
UNPACKED: Final = ROOT / ".tools"
KNOWN: Final = {
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "chromium": "chromium",
    "amtool": "prometheus-alertmanager",
    "nginx": "nginx",
}
"""Commands, and the packages that they are in."""

SERVICES: Final = frozenset({"nginx"})
"""Packages that would start a server where they are installed; they are unpacked for root, too."""

BIN: Final = ("usr/bin", "usr/sbin", "bin")
SECONDS: Final = 900


class MissingToolError(Exception):
    """A command is not there and can't be had."""

    def __init__(self, name: str, package: str, why: str) -> None:
        super().__init__(
            f"`{name}` is needed. Install Debian's package `{package}`, or put another build of it on "
            f"the path. It could not be fetched: {why}"
        )


def tool(name: str, package: str) -> Path:
    """Where a command is, after it was installed or unpacked if need be.

    Args:
        name: the command.
        package: Debian's package that has it.

    Raises:
        MissingToolError: it can't be had.
    """
    found = _find(name)
    if found is not None:
        return found
    if shutil.which("apt-get") is None:
        raise MissingToolError(name, package, "there is no apt-get here")
    installs = os.geteuid() == 0 and package not in SERVICES
    why = _install(package) if installs else _unpack(package, UNPACKED)
    found = _find(name)
    if found is None:
        raise MissingToolError(name, package, why or f"`{package}` has no `{name}`")
    return found


def _find(name: str) -> Path | None:
    """On the path, or among what was unpacked."""
    unpacked = os.pathsep.join(str(UNPACKED / folder) for folder in BIN)
    found = shutil.which(name) or shutil.which(name, path=unpacked)
    return None if found is None else Path(found)


def _install(package: str) -> str:
    """Install for everybody; returns why not, or ""."""
    install = ["apt-get", "install", "-y", "--no-install-recommends", package]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    if not _run(install, env=environment):
        return ""
    # Lists of packages that are missing or old name files that are gone.
    return _run(["apt-get", "update"], env=environment) or _run(install, env=environment)


def _unpack(package: str, into: Path) -> str:
    """Download the package, without what it depends on, and unpack it; returns why not, or ""."""
    into.mkdir(exist_ok=True)
    why = _run(["apt-get", "download", package], cwd=into)
    for archive in sorted(into.glob(f"{package}_*.deb")):
        why = why or _run(["dpkg", "-x", str(archive), str(into)])
        archive.unlink()
    return why


def _run(command: Sequence[str], cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """The end of what it wrote if it failed, else ""."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as failure:
        return str(failure)
    if done.returncode == 0:
        return ""
    return (done.stderr or done.stdout).strip()[
        -500:
    ] or f"{command[0]} ended with {done.returncode}"


def main() -> int:
    """Say where the commands are; 1 if one can't be had."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="+", choices=sorted(KNOWN), help="commands", metavar="NAME")
    for name in parser.parse_args().names:
        try:
            print(tool(name, KNOWN[name]))
        except MissingToolError as failure:
            print(f"error: {failure}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
