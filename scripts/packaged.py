"""Commands that Python packages carry: found through the package, whatever folder is on the path."""

from __future__ import annotations

import shutil
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


def packaged(name: str, package: str) -> str | None:
    """Where a command is that a package of this interpreter has, else on the path; None if nowhere.

    An environment that borrows another one's packages, as that of the tests does, has their commands in
    the other one's folder.
    """
    try:
        files = distribution(package).files or []
    except PackageNotFoundError:
        files = []
    for file in files:
        if file.name == name and file.parent.name == "bin":
            return str(Path(file.locate()).resolve())
    return shutil.which(name)
