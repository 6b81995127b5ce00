"""Install the project as its users will: build the wheel, put it in ``.venv-wheel``.

``.venv-wheel`` holds the built wheel and nothing else; all other packages come from ``.venv``
through a path file. A path file inside another path's folder is not read, so the editable
install in ``.venv``, and with it the checkout, stays out of sight: a file that the wheel lacks
is missing in the tests, too. Run after ``bootstrap.py``.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bootstrap import PYTHON, ROOT, VENV, environment
from progress import StepFailedError, step

WHEEL_VENV = ROOT / ".venv-wheel"
WHEEL_PYTHON = WHEEL_VENV / "bin" / "python"
WHERE = "import os, softprompt_serve as s; print(os.path.realpath(s.__file__))"


def site_packages(python: Path) -> Path:
    """The folder that an interpreter's packages are installed to."""
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    answer = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True)
    return Path(answer.stdout.strip())


def build(folder: Path) -> Path:
    """Build the wheel into `folder`, with the pinned backend of ``.venv``."""
    command = [
        *(str(PYTHON), "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"),
        *("--wheel-dir", str(folder), str(ROOT)),
    ]
    step("building the wheel", command, environment(), VENV / "wheel.log")
    (wheel,) = folder.glob("softprompt_serve-*.whl")
    return wheel


def install(wheel: Path) -> None:
    """Make ``.venv-wheel`` anew, with `wheel` in it."""
    if WHEEL_VENV.exists():
        shutil.rmtree(WHEEL_VENV)
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", WHEEL_VENV], check=True)
    packages = site_packages(PYTHON)
    (site_packages(WHEEL_PYTHON) / "packages-of-venv.pth").write_text(f"{packages}\n")
    command = [
        *(str(PYTHON), "-m", "pip", "--python", str(WHEEL_PYTHON), "install", "--no-deps"),
        *("--ignore-installed", str(wheel)),
    ]
    step(f"installing {wheel.name}", command, environment(), VENV / "wheel.log")
    # -P: the working directory, a checkout, must not come first on the path.
    where = subprocess.check_output([WHEEL_PYTHON, "-P", "-c", WHERE], text=True).strip()
    if not Path(where).is_relative_to(WHEEL_VENV.resolve()):
        sys.exit(f"error: softprompt_serve is imported from {where}, not from the wheel")


def main() -> int:
    """Build and install; a failure prints the end of its output."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            install(build(Path(folder)))
    except StepFailedError as error:
        print(f"\n{error.report()}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
