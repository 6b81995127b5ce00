"""Make ``.venv`` hold what the locks in ``requirements/`` name, and nothing else resolved.

Needs only Python 3.11 or 3.12 with its venv module. A second run compares hashes and says nothing.

    python3 scripts/bootstrap.py [--with demo] [--with test] [--with lock]

Environment:
    ACCELERATOR: ``cpu`` or ``cuda``; otherwise ``cuda`` where ``nvidia-smi`` answers.
    TORCH_INDEX: address of a package index to look for torch's CPU build in, beside pip's own.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from progress import StepFailedError, note, step

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "requirements"
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "installed.json"
LOG = VENV / "install.log"

SUPPORTED = ((3, 11), (3, 12))
LAYERS = ("demo", "test", "lock")  # in the order in which they build on each other
NOT_FOUND = "No matching distribution found for torch"
ELSEWHERE = "PIP_REQUIRE_VIRTUALENV", "PIP_TARGET", "PIP_PREFIX", "PIP_USER"

Stamp = dict[str, str]


class RefusedError(Exception):
    """This machine lacks something that the message names."""


def interpreter() -> str:
    """Path of a supported Python: this one, else one on the PATH that answers."""
    if sys.version_info[:2] in SUPPORTED:
        return sys.executable
    probe = "import sys; print(*sys.version_info[:2])"
    for version in reversed(SUPPORTED):
        found = shutil.which("python{}.{}".format(*version))
        if found is None:
            continue
        answer = subprocess.run(
            [found, "-c", probe], capture_output=True, text=True, check=False
        ).stdout.split()
        if answer == [str(part) for part in version]:
            return found
    here = "{}.{}".format(*sys.version_info[:2])
    msg = f"Python 3.11 or 3.12 is needed; this is {here} and neither is on the PATH."
    raise RefusedError(msg)


def accelerator() -> str:
    """``cuda`` or ``cpu``: what was asked for, else what answers."""
    asked = os.environ.get("ACCELERATOR", "")
    if asked:
        if asked not in {"cpu", "cuda"}:
            msg = f"ACCELERATOR={asked}: expected cpu or cuda."
            raise RefusedError(msg)
        return asked
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return "cpu"
    try:
        answer = subprocess.run([smi, "-L"], capture_output=True, timeout=30, check=False)
    except subprocess.TimeoutExpired:
        return "cpu"
    return "cuda" if answer.returncode == 0 and b"GPU" in answer.stdout else "cpu"


def digest(*paths: Path) -> str:
    """One hash over the contents of files."""
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in paths)).hexdigest()[:16]


def wanted(kind: str, python: str, layers: list[str]) -> Stamp:
    """What a complete ``.venv`` is stamped with: step → hash of what it installs."""
    stamp = {"place": f"{VENV} {kind} {python}"}
    if kind == "cpu":
        stamp["torch"] = digest(LOCKS / "torch-cpu.txt", LOCKS / "torch-pypi.txt")
    stamp[kind] = digest(LOCKS / f"{kind}.txt")
    stamp |= {layer: digest(LOCKS / f"{layer}.txt") for layer in LAYERS if layer in layers}
    version_file = ROOT / "softprompt_serve" / "__init__.py"
    stamp["project"] = digest(ROOT / "pyproject.toml", version_file)
    return stamp


def read_stamp() -> Stamp:
    """What was installed completely; empty when unknown."""
    try:
        stamp = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def environment() -> dict[str, str]:
    """The environment of pip: the user's own indexes, but not other places to install to."""
    left_out = {*ELSEWHERE, "PYTHONPATH", "PYTHONHOME", "__PYVENV_LAUNCHER__"}
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return kept | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}


def pip(title: str, *arguments: str) -> None:
    """Install into ``.venv``, resolving nothing."""
    command = [str(PYTHON), "-m", "pip", "install", "--no-deps", "--progress-bar=off", *arguments]
    step(title, command, environment(), LOG)


def create(python: str) -> None:
    """Make an empty ``.venv``."""
    if VENV.exists():
        shutil.rmtree(VENV)
    probe = subprocess.run(
        [python, "-c", "import ensurepip, venv"], check=False, stderr=subprocess.DEVNULL
    )
    if probe.returncode != 0:
        msg = (
            f"{python} cannot make virtual environments. On Debian and Ubuntu: "
            "apt-get install python3-venv"
        )
        raise RefusedError(msg)
    VENV.mkdir()
    step(f"creating .venv with {python}", [python, "-m", "venv", str(VENV)], environment(), LOG)


def install_torch() -> None:
    """Install the CPU build of torch where one is offered, else the registry's own build."""
    pinned = ("-r", str(LOCKS / "torch-cpu.txt"))
    try:
        pip("installing torch for CPU", *pinned)
    except StepFailedError as error:
        if NOT_FOUND not in error.output:
            raise
    else:
        return
    index = os.environ.get("TORCH_INDEX", "")
    if index:
        pip("installing torch for CPU from TORCH_INDEX", "--extra-index-url", index, *pinned)
        return
    note("pip finds no CPU build of torch for this Python; taking the registry's CUDA build,")
    note("which runs on CPU too but downloads several GB. To avoid that, stop this and set")
    note("TORCH_INDEX to the address of an index that has torch's CPU builds.")
    pip(
        "installing torch with CUDA libraries",
        *("--require-hashes", "-r", str(LOCKS / "torch-pypi.txt")),
    )


def install(name: str) -> None:
    """Carry out one step of a stamp."""
    if name == "torch":
        install_torch()
    elif name == "project":
        pip("installing softprompt-serve, editable", "--no-build-isolation", "-e", str(ROOT))
    else:
        lock = LOCKS / f"{name}.txt"
        count = sum("==" in line for line in lock.read_text().splitlines())
        title = f"installing requirements/{name}.txt, {count} pins"
        pip(title, "--require-hashes", "-r", str(lock))


def missing_system_packages(python: str) -> list[str]:
    """Debian's names of what vLLM on CPU uses from the system and this machine lacks."""
    missing = []
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError:
        missing.append("libnuma1")
    # torch compiles the model's kernels when an engine starts.
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
        missing.append("g++")
    ask = "import sysconfig; print(sysconfig.get_path('include'))"
    headers = subprocess.check_output([python, "-c", ask], text=True).strip()
    if not (Path(headers) / "Python.h").exists():
        missing.append("python3-dev")
    return missing


def bootstrap(layers: list[str]) -> None:
    """Bring ``.venv`` to what `layers` and the machine ask for.

    Raises:
        RefusedError: the machine lacks something; the message names it.
        StepFailedError: a command failed.
    """
    python = interpreter()
    kind = accelerator()
    goal = wanted(kind, python, layers)
    done = read_stamp()
    if goal.items() <= done.items():
        return
    fresh = done.get("place") != goal["place"]
    doing = "Preparing .venv, once" if fresh else "Updating .venv"
    print(f"{doing} ({kind}):", flush=True)
    if fresh:
        create(python)
        done = {"place": goal["place"]}
    for name in goal:
        if done.get(name) != goal[name]:
            install(name)
            done[name] = goal[name]
            STAMP.write_text(json.dumps(done, indent=2))
    missing = missing_system_packages(python) if kind == "cpu" else []
    if missing:
        note("vLLM will not start on CPU without what Debian and Ubuntu have by these names:")
        note(f"apt-get install {' '.join(missing)}")


def main() -> int:
    """Parse the command line, and report refusals and failures without a traceback."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--with", dest="layers", action="append", default=[], choices=LAYERS)
    layers = parser.parse_args().layers
    try:
        with (ROOT / ".venv.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two makes at once take turns
            bootstrap(layers)
    except StepFailedError as error:
        print(f"\n{error.report()}\nThe whole log: {LOG}", file=sys.stderr)
        return 1
    except RefusedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
