"""What a version costs on a GPU, as far as paper and the command line go."""

from __future__ import annotations

import pytest
import torch
from gpu.paper import Assumed, Case, estimate, resident_bytes, table
from gpu_costs import NO_DEVICE, main

GIVEN = Assumed(hbm=1e12, pcie=1e10, host=1e9, launch=1e-6)


def test_a_version_takes_rows_times_hidden_size_times_itemsize() -> None:
    assert resident_bytes(Case(hidden=4096, rows=20, visible=0, itemsize=2)) == 163_840


def test_an_overlay_reads_and_writes_each_row_once() -> None:
    costs = estimate(Case(hidden=1000, rows=500, visible=7, itemsize=2), GIVEN)
    assert costs.overlay_seconds == pytest.approx(1e-6 + 2 * 1e6 / 1e12)
    assert costs.load_seconds == pytest.approx(1e-6 + 1e6 / 1e10)


def test_visible_tokens_cost_native_embeddings_alone() -> None:
    short, long = (estimate(Case(1000, 20, visible), GIVEN) for visible in (0, 480))
    assert short.overlay_seconds == long.overlay_seconds
    more = 480 * 1000 * 2
    host = long.native_host_seconds - short.native_host_seconds
    device = long.native_device_seconds - short.native_device_seconds
    assert host == pytest.approx(more / GIVEN.host)
    assert device == pytest.approx(more / GIVEN.pcie + 2 * more / GIVEN.hbm)


def test_the_table_has_a_row_for_each_case() -> None:
    case = Case(576, 20, 0)
    assert "| 576 | 20 | 22.5 |" in table([(case, estimate(case, GIVEN))])


def test_paper_says_that_it_is_paper(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--paper", "--hbm-gb-s", "1000"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("On paper, not measured")
    assert "HBM 1000 GB/s" in said


def test_without_a_device_nothing_is_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == NO_DEVICE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "no CUDA device" in captured.err
