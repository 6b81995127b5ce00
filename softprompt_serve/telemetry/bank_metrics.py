"""The workers' bank: how full it is, what is loaded into it, and who waits for that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import Counter, Gauge, Histogram

from softprompt_serve.router.ask import OTHER
from softprompt_serve.telemetry.buckets import WAIT_SECONDS
from softprompt_serve.telemetry.labels import Bounded, exemplar, multiprocess
from softprompt_serve.telemetry.metrics_board import Board

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from prometheus_client import CollectorRegistry

    from softprompt_serve.registry.snapshot import Snapshot, Version
    from softprompt_serve.telemetry.events import Loaded, RequestEvent

OK = "ok"


class BankMetrics:
    """A listener of loads and of requests that waited for one.

    Args:
        registry: where the metrics are registered.
        arms: how many prompts and versions have series of their own.
        collapsed: counts what comes after them, as ``other``.
    """

    def __init__(self, registry: CollectorRegistry, *, arms: int, collapsed: Counter) -> None:
        def gauge(name: str, what: str) -> Gauge:
            return Gauge(
                f"softprompt_bank_{name}",
                what,
                registry=registry,
                # All API servers of an engine ask the same workers: who asked last knows best.
                multiprocess_mode="livemostrecent",
            )

        self._capacity = gauge("capacity_rows", "Rows that every worker's bank has.")
        self._used = gauge("used_rows", "Rows that are taken, on the worker with the most.")
        self._bytes = gauge("bytes", "Memory of one worker that resident versions take.")
        self._versions = gauge("resident_versions", "Tensors that every worker holds.")
        self._resident = Board(
            Gauge(
                "softprompt_version_resident",
                "Whether requests for the version find it resident.",
                ("prompt", "version"),
                registry=registry,
                multiprocess_mode="livemin",
            ),
            arms,
            collapsed,
        )
        self._loads = Counter(
            "softprompt_bank_loads",
            "Loads, done or failed.",
            ("source", "result"),
            registry=registry,
        )
        self._evictions = Counter(
            "softprompt_bank_evictions",
            "Versions that had to leave for another.",
            registry=registry,
        )
        self._misses = Counter(
            "softprompt_bank_misses",
            "Requests that found their version not resident, and waited.",
            ("prompt", "version"),
            registry=registry,
        )
        self._load_seconds = Histogram(
            "softprompt_bank_load_seconds",
            "How long a load took that was done.",
            ("source",),
            buckets=WAIT_SECONDS,
            registry=registry,
        )
        self._wait_seconds = Histogram(
            "softprompt_bank_lease_wait_seconds",
            "How long a request waited for its version to become resident.",
            buckets=WAIT_SECONDS,
            registry=registry,
        )
        self._missed: Bounded[tuple[str, str]] = Bounded(arms, collapsed)
        self._exemplars = not multiprocess()
        for source in ("host", "blob"):
            self._loads.labels(source, OK)
            self._load_seconds.labels(source)

    def loaded(self, event: Loaded) -> None:
        """Count a load."""
        self._loads.labels(event.source, event.error or OK).inc()
        self._evictions.inc(event.evicted)
        if event.error is None:
            self._load_seconds.labels(event.source).observe(event.seconds)

    def answered(self, event: RequestEvent) -> None:
        """Count a request that had to wait, which is rare."""
        if event.lease_wait_seconds is None:
            return
        where = exemplar(event.trace) if self._exemplars else None
        self._wait_seconds.observe(event.lease_wait_seconds, where)
        version = event.decision.version
        names = (version.prompt, version.version)
        self._misses.labels(*(names if self._missed.admits(names) else (OTHER, OTHER))).inc()

    def show(
        self,
        statuses: Sequence[Mapping[str, Any]],
        resident: Callable[[Version], bool],
        snapshot: Snapshot,
    ) -> None:
        """Show how full the bank is, and which versions are there.

        Args:
            statuses: of each worker, as ``softprompt_status`` answers.
            resident: whether a version can be sent to the workers now.
            snapshot: what is served; shown are versions that a prompt's own name can mean.
        """
        banks = [status for status in statuses if status["bank"]]
        held = set[str]()
        if banks:
            held = set.intersection(*(set(bank["resident"]) for bank in banks))
        self._capacity.set(min((bank["capacity_rows"] for bank in banks), default=0))
        self._used.set(max((bank["used_rows"] for bank in banks), default=0))
        self._bytes.set(max((_bytes(bank) for bank in banks), default=0))
        self._versions.set(len(held))
        self._resident.show(
            {
                (version.prompt, version.version): float(version.wanted and resident(version))
                for prompt in snapshot.prompts.values()
                for version in prompt.serving()
            }
        )


def _bytes(bank: Mapping[str, Any]) -> float:
    """Bytes of the rows that one worker's versions take."""
    rows: int = bank["capacity_rows"]
    return float(bank["slab_bytes"] * sum(bank["resident"].values()) / rows) if rows else 0.0
