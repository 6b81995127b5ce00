"""The benchmarks load, and their tables say what was measured."""

from __future__ import annotations

import importlib.util
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from softprompt_serve.demo.scoring import Score

SHARED = {"request_path", "serving", "side_by_side", "stand_ins", "stopwatch"}
ROOT = Path(__file__).parent.parent
FILES = sorted(path for path in (ROOT / "benchmarks").glob("*.py") if path.stem not in SHARED)


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


def test_each_takes_the_arguments_that_make_bench_gives_it() -> None:
    told = subprocess.run(
        ["make", "--dry-run", "bench"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    calls = [words[1:] for line in told.splitlines() if len(words := shlex.split(line)) > 1]
    given = [(Path(call[0]), call[1:]) for call in calls if call[0].startswith("benchmarks/")]
    assert len(given) > 10
    for path, arguments in given:
        assert load(ROOT / path).arguments(arguments), path


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


@pytest.mark.timeout(120)
def test_the_path_of_a_request_can_still_be_walked() -> None:
    """In a process of its own: what it installs would stay."""
    script = ROOT / "benchmarks" / "profile_request.py"
    done = subprocess.run(
        [sys.executable, script, "--calls", "2", "--repeats", "1"],
        env={**os.environ, "PYTHONPATH": str(script.parent)},  # also where the checkout is kept off
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "| worker: hold rows |" in done.stdout


def test_zipfs_law_gives_the_second_half_of_the_first() -> None:
    zipf = load(next(path for path in FILES if path.stem == "zipf"))
    first, second, third = zipf.weights(3, 1.0)
    assert (second / first, third / first) == pytest.approx((1 / 2, 1 / 3))
    assert first + second + third == pytest.approx(1.0)
    assert zipf.best(3, 1.0, 2) == pytest.approx(first + second)


def test_a_bank_that_loads_says_from_where_and_how_long() -> None:
    zipf = load(next(path for path in FILES if path.stem == "zipf"))
    run = zipf.Run(bank=2, seconds=2.0, ttft=[0.25] * 9)
    run.statuses.update({"200": 9, "503 bank_full": 1})
    run.counted = {
        "softprompt_bank_load_seconds_count{source=host}": 4.0,
        "softprompt_bank_load_seconds_sum{source=host}": 0.02,
        zipf.MISSES: 5.0,
        zipf.WAITED: 0.1,
    }
    options = zipf.arguments(["--demo", "x", "--versions", "4"])
    row = zipf.table([run], options).splitlines()[4]
    assert row == (
        "| 2 | 5.0 | 50.0% | 72.0% | 4, 0 | 5.0, - | 20.0 | 250, 250 | 1 x 503 bank_full |"
    )


def test_a_long_step_is_told_with_its_place() -> None:
    lag = load(next(path for path in FILES if path.stem == "lag"))
    options = lag.arguments(["--model", "x", "--alone"])
    case = {"steps": [0.0001, 0.002], "count": 2, "done": 1, "long": [[0.002, "a task, a.py:3 f"]]}
    table = lag.table({"swaps": case}, options)
    assert table.startswith("0 callers")
    assert "| swaps | 1 | 2 | 2.00 | 2.00 | 1 |" in table
    assert "  - 2.00 ms: `a task, a.py:3 f`" in table


def test_a_kind_is_told_by_what_is_shipped_and_what_was_asked() -> None:
    kinds = load(next(path for path in FILES if path.stem == "kinds"))
    found = kinds.Found({"test": Score(4, 160), "bbh": Score(66, 264)}, [1.1, 1.0, 1.3])
    assert kinds.row("v2", found) == [
        *("v2", "46.2", "2.5% (1-6)", "-", "25.0% (20-31)", "-"),
        "1.100 (1.000 to 1.300)",
    ]
    assert kinds.row("base", kinds.Found()) == ["base", *["-"] * 6]
    assert kinds.table({"v2": found}).splitlines()[0].endswith("| TTFT ÷ base |")
