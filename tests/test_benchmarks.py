"""The benchmarks load, and their tables say what was measured."""

from __future__ import annotations

import importlib.util
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import pytest

FILES = sorted((Path(__file__).parent.parent / "benchmarks").glob("*.py"))


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


def test_ratios_are_taken_within_a_round() -> None:
    overlay = load(next(path for path in FILES if path.stem == "overlay"))
    ttft, throughput = overlay.Figures(), overlay.Figures()
    for plain, ours in ((1.0, 2.0), (10.0, 10.0), (4.0, 2.0)):
        for figures in (ttft, throughput):
            figures.add(overlay.PLAIN, plain)
            figures.add(overlay.OVERLAY, ours)
    options = Namespace(rows=1, visible=2, output=3, concurrency=4, rounds=3, dtype="float32")
    table = overlay.table("a model", {"ttft": ttft, "throughput": throughput}, options)
    assert "| overlay | 2000.0 | 2.0 | 1.000 (0.500 to 2.000) | 1.000 (0.500 to 2.000) |" in table
    assert overlay.NATIVE not in table
