"""The licences of what is served with, from the packages' own metadata and files.

``python scripts/licences.py requirements/cpu.txt`` prints them, for the packages of a lock that are
installed beside this interpreter; the others are named at the end.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

PINNED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==\S+")
FILES = re.compile(r"(licen[cs]es?|copying|notice|authors)[^/]*(/.*)?", re.IGNORECASE)
LONGEST_NAME = 100
"""Some packages put the whole text where the name belongs."""


@dataclass(frozen=True, slots=True)
class Licence:
    """What one package says of its licence.

    Attributes:
        package: its name and version.
        names: as its metadata says: an SPDX expression, a name, or classifiers.
        texts: its licence files' texts, by path.
    """

    package: str
    names: str
    texts: tuple[tuple[str, str], ...]


def pinned(lock: str) -> list[str]:
    """Names of the packages of a lock, each once."""
    found = (PINNED.match(line) for line in lock.splitlines())
    return sorted({match[1].lower() for match in found if match})


def licence_of(package: Distribution) -> Licence:
    """From what is installed."""
    metadata = package.metadata
    said = (metadata.get_all("License-Expression") or metadata.get_all("License") or [""])[0]
    if not said.strip() or len(said) > LONGEST_NAME or "\n" in said:
        classified = [
            line.rpartition(" :: ")[2]
            for line in metadata.get_all("Classifier") or []
            if line.startswith("License ::")
        ]
        said = ", ".join(classified) or "see below"
    texts = []
    for file in package.files or []:
        inside = re.sub(r"^[^/]+\.dist-info/(licenses/)?", "", str(file))
        if inside != str(file) and FILES.fullmatch(inside):
            path = Path(str(package.locate_file(file)))
            texts.append((inside, path.read_text(encoding="utf-8", errors="replace").strip()))
    return Licence(f"{metadata['Name']} {package.version}", said.strip(), tuple(texts))


def render(licences: list[Licence], absent: list[str]) -> str:
    """One text: a table of names first, then each package's own files."""
    lines = ["Licences of what softprompt-serve runs with", ""]
    lines += [f"{licence.package}: {licence.names}" for licence in licences]
    if absent:
        lines += ["", f"Not installed where this was made: {', '.join(absent)}"]
    for licence in licences:
        for name, text in licence.texts:
            lines += ["", "=" * 80, f"{licence.package}: {name}", "=" * 80, "", text]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the licences of a lock's packages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "lock", type=Path, nargs="+", help="lock files, such as requirements/cpu.txt"
    )
    licences, absent = [], []
    names = {name for lock in parser.parse_args().lock for name in pinned(lock.read_text())}
    for name in sorted(names):
        try:
            licences.append(licence_of(distribution(name)))
        except PackageNotFoundError:
            absent.append(name)
    sys.stdout.write(render(licences, absent))


if __name__ == "__main__":
    main()
