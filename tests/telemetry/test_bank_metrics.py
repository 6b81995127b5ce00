"""The workers' bank, as metrics."""

from __future__ import annotations

from typing import Any

from measured import Measured
from rollout.events import event
from router.catalogues import snapshot, split, without

from softprompt_serve.registry.snapshot import EMPTY
from softprompt_serve.telemetry.events import Loaded


def status(resident: dict[str, int], *, capacity: int = 100) -> dict[str, Any]:
    return {
        "bank": True,
        "capacity_rows": capacity,
        "used_rows": sum(resident.values()),
        "slab_bytes": capacity * 16,
        "resident": resident,
    }


def test_loads_are_counted_by_where_the_bytes_were_and_how_they_ended() -> None:
    found = Measured().emit(
        Loaded("a", "host", 0.002),
        Loaded("b", "blob", 0.2, evicted=2),
        Loaded("c", "blob", 9.0, error="blob_missing"),
    )
    assert found.value("bank_loads_total", source="host", result="ok") == 1
    assert found.value("bank_loads_total", source="blob", result="ok") == 1
    assert found.value("bank_loads_total", source="blob", result="blob_missing") == 1
    assert found.value("bank_evictions_total") == 2


def test_only_loads_that_were_done_are_timed() -> None:
    found = Measured().emit(Loaded("b", "blob", 0.2), Loaded("c", "blob", 9.0, error="timeout"))
    assert found.value("bank_load_seconds_count", source="blob") == 1
    assert found.value("bank_load_seconds_sum", source="blob") == 0.2


def test_a_request_that_waited_for_its_version_missed_it() -> None:
    found = Measured().emit(event(), event(lease_wait_seconds=0.25))
    assert found.value("bank_misses_total", prompt="support", version="v2") == 1
    assert found.value("bank_lease_wait_seconds_count") == 1
    assert found.value("bank_lease_wait_seconds_sum") == 0.25


def test_versions_that_are_missed_are_bounded() -> None:
    found = Measured(arms=2)
    found.emit(*(event(f"v{i}", lease_wait_seconds=0.1) for i in range(9)))
    assert len(found.series("bank_misses_total")) == 3
    assert found.value("bank_misses_total", prompt="other", version="other") == 7


def test_of_several_workers_the_least_capacity_and_the_most_use_count() -> None:
    found = Measured()
    found.metrics.bank(
        [status({"a": 20, "b": 10}), status({"a": 20, "c": 40}, capacity=80)],
        without(),
        snapshot(),
    )
    assert found.value("bank_capacity_rows") == 80
    assert found.value("bank_used_rows") == 60
    assert found.value("bank_bytes") == 60 * 16
    assert found.value("bank_resident_versions") == 1  # what all of them hold


def test_a_worker_without_a_bank_holds_nothing() -> None:
    found = Measured()
    found.metrics.bank([{"bank": False, "resident": {}}], without(), snapshot())
    assert found.value("bank_capacity_rows") == found.value("bank_resident_versions") == 0


def test_versions_that_the_name_can_mean_are_shown_resident_or_not() -> None:
    found = Measured()
    found.metrics.bank([status({})], without("v2"), split(v1=9, v2=1))
    series = found.series("version_resident")
    assert {labels["version"] for labels in series} == {"v1", "v2"}
    assert found.value("version_resident", prompt="support", version="v1") == 1
    assert found.value("version_resident", prompt="support", version="v2") == 0


def test_a_version_that_is_gone_is_not_resident() -> None:
    found = Measured()
    found.metrics.bank([status({})], without(), snapshot())
    found.metrics.bank([status({})], without(), EMPTY)
    assert found.value("version_resident", prompt="support", version="v1") == 0
