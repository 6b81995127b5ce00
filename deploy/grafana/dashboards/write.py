"""Writes the dashboards' JSON, or says whether what is there is current."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards import bank, rollout, versions

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER: Final = Path(__file__).parents[1] / "json"
BUILDERS: Final = {"versions": versions.build, "rollout": rollout.build, "bank": bank.build}


def files() -> Iterator[tuple[Path, str]]:
    """Each file and what belongs in it."""
    for name, build in BUILDERS.items():
        text = json.dumps(build(), cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False)
        yield FOLDER / f"{name}.json", f"{text}\n"


def write() -> list[Path]:
    """Write all; returns what was written."""
    FOLDER.mkdir(exist_ok=True)
    written = []
    for path, text in files():
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def stale() -> list[Path]:
    """Files that are missing or say something else, and those that no dashboard makes."""
    wanted = dict(files())
    other = [path for path, text in wanted.items() if not _says(path, text)]
    return [*other, *(path for path in sorted(FOLDER.glob("*.json")) if path not in wanted)]


def _says(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text
