"""The benchmarks load, and their tables say what was measured."""

from __future__ import annotations

import importlib.util
import socket
import sys
from pathlib import Path
from types import ModuleType

import pytest

SHARED = {"serving", "side_by_side"}
FILES = sorted(
    path
    for path in (Path(__file__).parent.parent / "benchmarks").glob("*.py")
    if path.stem not in SHARED
)


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_says_how_it_is_run(path: Path) -> None:
    module = load(path)
    assert f"python benchmarks/{path.name}" in (module.__doc__ or "")
    assert callable(module.main)


def test_routing_measures_every_case_and_names_no_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    routing = load(next(path for path in FILES if path.stem == "routing"))
    results = tmp_path / "routing.md"
    small = ["--prompts", "3", "--decisions", "5", "--rounds", "1", "--arms", "1", "3"]
    routing.main([*small, "--rules", "0", "2", "--results", str(results)])
    tables = results.read_text()
    for case in ("production, no rollout", "pinned by the header", "1 arm, 0 rules"):
        assert f"| {case} | " in tables
    assert "| 3 arms, 2 rules | " in tables
    assert "| 3 prompts, 9 versions | |" in tables
    assert socket.gethostname() not in tables
    assert tables.splitlines()[-1] in capsys.readouterr().out
