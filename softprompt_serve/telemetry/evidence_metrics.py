"""What stored evaluations say of the versions that there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import Gauge

from softprompt_serve.telemetry.metrics_board import Board

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import CollectorRegistry, Counter

    from softprompt_serve.registry.evidence import Result
    from softprompt_serve.registry.snapshot import Snapshot

LABELS: Final = ("prompt", "version", "cohort", "dataset", "evaluator")


class EvidenceMetrics:
    """Shows the newest results by version and cohort.

    Args:
        registry: where the metrics are registered.
        arms: how many combinations of labels have series of their own.
        collapsed: counts what comes after them.
    """

    def __init__(self, registry: CollectorRegistry, *, arms: int, collapsed: Counter) -> None:
        def board(name: str, what: str) -> Board:
            gauge = Gauge(
                f"softprompt_eval_{name}",
                what,
                LABELS,
                registry=registry,
                # All API servers read the same rows: who read last knows best. The highest would
                # be an old failure rate for as long as one of them can't read.
                multiprocess_mode="livemostrecent",
            )
            return Board(gauge, arms, collapsed)

        self._items = board("items", "Items that the newest run of an evaluation scored.")
        self._failed = board("fail_ratio", "Which part of those failed.")

    def show(self, results: Iterable[Result], snapshot: Snapshot) -> None:
        """Show these results, as far as they are verdicts on versions that exist."""
        items: dict[tuple[str, ...], float] = {}
        failed: dict[tuple[str, ...], float] = {}
        # Where there is no room for all, the newest come first.
        for result in sorted(results, key=lambda found: -found.at):
            prompt = snapshot.prompt(result.prompt)
            if prompt is None or result.version not in prompt.versions or result.cohort is None:
                continue
            labels = tuple(getattr(result, name) for name in LABELS)
            items[labels] = float(result.items)
            if result.fail_rate is not None:
                failed[labels] = result.fail_rate
        self._items.show(items)
        self._failed.show(failed)
