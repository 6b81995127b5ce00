"""Metrics of several API servers, which write them into files that one of them reads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
from prometheus_client.parser import text_string_to_metric_families

TESTS = Path(__file__).parent.parent

SERVER = """
import sys
sys.path.insert(0, sys.argv[1])
from dataclasses import replace
from measured import TARIFF, Measured
from rollout.events import event
from router.catalogues import rollout, arms, snapshot, split, without
from softprompt_serve.registry.evidence import Result
from softprompt_serve.registry.snapshot import EMPTY
from softprompt_serve.telemetry.events import Applied, Seen, TraceRef

def at(generation, **weights):
    routed = rollout({"arms": arms(**weights)})
    return snapshot(routed=replace(routed, generation=generation))

def status(used):
    return {"bank": True, "capacity_rows": 10, "used_rows": used, "slab_bytes": 80,
            "resident": {"v1" * 32: used}}

found = Measured(prices=TARIFF)
trace = TraceRef("a" * 32, "b" * 16)
if sys.argv[2] == "behind":
    found.emit(Applied(at(7, v1=9, v2=1)), Seen(at(8, v1=1, v2=9)))
    found.metrics.bank([status(4)], without("v2"), at(7, v1=9, v2=1))
else:
    found.emit(Applied(at(7, v1=9, v3=1)), Applied(at(8, v1=1, v2=9)))
    found.metrics.bank([status(6)], without(), at(8, v1=1, v2=9))
found.emit(event(trace=trace, queue_seconds=0.1), event(lease_wait_seconds=0.1, trace=trace))
found.metrics.dropped("span", "queue_full")
passed = 10 if sys.argv[2] == "behind" else 30
result = Result("support", "v2", "default", "tickets", "a" * 64, "exact_match", 40, passed, 0,
                None, None, "0" * 32, 1000.0)
found.metrics.evaluations([result], snapshot())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two servers have written, the one that is ahead last."""
    folder = tmp_path_factory.mktemp("metrics")
    for which in ("behind", "ahead"):
        subprocess.run(
            [sys.executable, "-W", "error", "-c", SERVER, str(TESTS), which],
            env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder)},
            check=True,
            timeout=120,
        )
    return folder


def read(folder: Path) -> CollectorRegistry:
    """As vLLM's /metrics does."""
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, str(folder))
    return registry


def values(folder: Path, name: str, *labels: str) -> dict[tuple[str, ...], float]:
    return {
        tuple(sample.labels[label] for label in labels): sample.value
        for family in read(folder).collect()
        for sample in family.samples
        if sample.name == f"softprompt_{name}"
    }


def test_requests_of_all_servers_add_up(folder: Path) -> None:
    assert values(folder, "requests_total", "version", "arm", "status") == {
        ("v2", "v2", "200"): 4,
        ("v1", "v1", "200"): 0,
        ("v3", "v3", "200"): 0,
        ("v1", "production", "200"): 0,
        ("v2", "candidate", "200"): 0,
    }
    assert values(folder, "time_to_first_token_seconds_count", "arm")[("v2",)] == 4
    assert values(folder, "token_cost_per_trace_usd_count", "arm")[("v2",)] == 4
    assert values(folder, "bank_misses_total", "version") == {("v2",): 2}
    assert values(folder, "telemetry_dropped_total", "what") == {("span",): 2}


def test_the_newest_that_any_has_read_and_the_oldest_that_one_still_follows(folder: Path) -> None:
    assert values(folder, "rollout_generation", "prompt") == {("support",): 8}
    assert values(folder, "rollout_applied_generation", "prompt") == {("support",): 7}


def test_weights_and_bank_are_as_told_last_and_what_is_gone_is_zero(folder: Path) -> None:
    shares = values(folder, "rollout_weight_ratio", "version")
    assert shares == {("v1",): 0.1, ("v2",): 0.9, ("v3",): 0.0}
    assert values(folder, "bank_used_rows") == {(): 6}
    roles = values(folder, "rollout_arm_info", "version", "role")
    assert roles == {("v1", "baseline"): 1, ("v2", "candidate"): 1, ("v3", "candidate"): 0}


def test_a_version_is_resident_where_every_server_believes_so(folder: Path) -> None:
    assert values(folder, "version_resident", "version") == {("v1",): 1, ("v2",): 0}


def test_evaluations_are_as_read_last(folder: Path) -> None:
    assert values(folder, "eval_fail_ratio", "version", "cohort") == {("v2", "default"): 0.25}
    assert values(folder, "eval_items", "version", "cohort") == {("v2", "default"): 40}


def test_nothing_is_shown_for_each_process(folder: Path) -> None:
    for family in read(folder).collect():
        assert all("pid" not in sample.labels for sample in family.samples), family.name


def test_there_are_no_exemplars_and_the_text_parses(folder: Path) -> None:
    text = generate_latest(read(folder)).decode()
    names = {family.name for family in text_string_to_metric_families(text)}
    assert "softprompt_build_info" in names
    assert "trace_id" not in text


def test_gauges_of_a_server_that_ended_end_with_it(folder: Path) -> None:
    for file in folder.glob("gauge_live*.db"):
        multiprocess.mark_process_dead(int(file.stem.rpartition("_")[2]), str(folder))
    assert values(folder, "rollout_applied_generation", "prompt") == {}
    assert sum(values(folder, "requests_total", "arm").values()) == 4
