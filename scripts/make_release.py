"""Make ``dist/``: wheel, sdist, a bill of materials for each accelerator, licences and checksums.

Run after ``bootstrap.py``. The tools that write the bills have an environment of their own,
``.venv-release``, from ``requirements/release.txt``. ``--audit`` asks instead whether a pinned
package has a known vulnerability; that needs a network which reaches such a service.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bootstrap import LOCKS, PYTHON, ROOT, environment
from progress import StepFailedError, step

if TYPE_CHECKING:
    from collections.abc import Sequence

DIST = ROOT / "dist"
TOOLS = ROOT / ".venv-release"
BIN = TOOLS / "bin"
LOG = TOOLS / "release.log"
SERVED = {"cpu": ("cpu", "torch-cpu"), "cuda": ("cuda",)}
"""Accelerators, and the locks that say what runs there."""
LICENCES = "THIRD_PARTY_LICENCES.txt"


def tools() -> None:
    """Bring ``.venv-release`` to what its lock says."""
    lock = LOCKS / "release.txt"
    stamp = TOOLS / "installed.txt"
    if stamp.is_file() and stamp.read_text() == lock.read_text():
        return
    subprocess.run([PYTHON, "-m", "venv", "--clear", TOOLS], check=True)
    command = [str(BIN / "python"), "-m", "pip", "install", "--require-hashes", "-r", str(lock)]
    step("installing requirements/release.txt", command, environment(), LOG)
    stamp.write_text(lock.read_text())


def release() -> None:
    """Write everything into ``dist/``, which is made anew."""
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    build = [str(PYTHON), "-m", "hatchling", "build", "-t", "sdist", "-t", "wheel", "-d", str(DIST)]
    step("building sdist and wheel", build, environment(), LOG)
    (wheel,) = DIST.glob("*.whl")
    version = wheel.name.split("-")[1]
    for kind, locks in SERVED.items():
        bill_of_materials(kind, locks, version)
    licences = [
        str(PYTHON),
        str(ROOT / "scripts" / "licences.py"),
        *(str(lock) for lock in paths(SERVED["cpu"])),
    ]
    text = subprocess.run(licences, capture_output=True, check=True).stdout
    (DIST / LICENCES).write_bytes(text)
    files = sorted(path for path in DIST.iterdir() if path.is_file())
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (DIST / "SHA256SUMS").write_text("".join(sums))
    print("".join(f"  dist/{path.name}\n" for path in files), end="")


def bill_of_materials(kind: str, locks: Sequence[str], version: str) -> None:
    """Write ``KIND.cdx.json``: CycloneDX of every pin, with the hashes that pip holds it to."""
    target = DIST / f"{kind}.cdx.json"
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder) / f"{kind}.txt"
        pins.write_text("".join(path.read_text() for path in paths(locks)))
        command = [
            *(str(BIN / "cyclonedx-py"), "requirements", str(pins)),
            *("--pyproject", str(ROOT / "pyproject.toml"), "--mc-type", "library"),
            *("--output-reproducible", "--of", "JSON", "-o", str(target)),
        ]
        step(f"writing {target.name}", command, environment(), LOG)
    bill = json.loads(target.read_text())
    bill["metadata"]["component"]["version"] = version  # which pyproject.toml leaves to the package
    target.write_text(json.dumps(bill, indent=2) + "\n")


def paths(locks: Sequence[str]) -> list[Path]:
    """Of lock files."""
    return [LOCKS / f"{name}.txt" for name in locks]


def audit() -> int:
    """What is known of the pinned packages; 1 if something is."""
    found = 0
    for kind in SERVED:  # torch on CPU has no hash, and is the same release as on CUDA
        lock = str(LOCKS / f"{kind}.txt")
        # Strict: of a package that could not be looked up, nothing is known.
        command = [
            str(BIN / "pip-audit"),
            "--strict",
            "--require-hashes",
            "--disable-pip",
            "-r",
            lock,
        ]
        print(f"requirements/{kind}.txt:", flush=True)
        found |= subprocess.run(command, check=False).returncode
    return found


def main() -> int:
    """Make a release, or audit it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--audit", action="store_true", help="look for known vulnerabilities")
    asked = parser.parse_args()
    try:
        tools()
        if asked.audit:
            return audit()
        release()
    except StepFailedError as error:
        print(f"\n{error.report()}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
