"""The arms of a rollout side by side, from what all replicas have counted of them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from softprompt_serve.rollout.gates import OVERALL
from softprompt_serve.rollout.progress import arm_of
from softprompt_serve.shadow.intervals import wilson

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from softprompt_serve.registry.tallies import Tally
    from softprompt_serve.rollout.histogram import Histogram
    from softprompt_serve.rollout.tally import Counts
    from softprompt_serve.shadow.intervals import Interval


@dataclass(frozen=True, slots=True)
class Share:
    """So many of so many, with Wilson's 95 % interval."""

    count: int
    of: int

    @property
    def rate(self) -> float | None:
        """0 to 1, or None of nothing."""
        return self.count / self.of if self.of else None

    @property
    def interval(self) -> Interval | None:
        """Where the true share lies."""
        return wilson(self.count, self.of)


@dataclass(frozen=True, slots=True)
class Spread:
    """A distribution; all None where nothing was measured.

    Attributes:
        count: how many values.
        p50, p95: in the measure's own unit.
    """

    count: int
    p50: float | None
    p95: float | None

    @classmethod
    def of(cls, histogram: Histogram) -> Spread:
        """From counts by bucket."""
        return cls(histogram.count, histogram.quantile(0.5), histogram.quantile(0.95))


@dataclass(frozen=True, slots=True)
class Arm:
    """One version of a comparison.

    Attributes:
        version: its name.
        role: ``production``, ``candidate`` or "".
        weight: of the split; 0 for a version that has none.
        requests: answers and failures, without the client's own errors.
        errors: of those, the server's failures.
        ttft, e2e: seconds.
        output_tokens: per answer.
        cost: USD per answer.
        reactions: answers that users did something about, of all.
        unhappy: answers that they found fault with, of all.
        metrics: evaluations that its record names.
    """

    version: str
    role: str
    weight: int
    requests: int
    errors: Share
    ttft: Spread
    e2e: Spread
    output_tokens: Spread
    cost: Spread
    reactions: Share
    unhappy: Share
    metrics: Mapping[str, float]

    @classmethod
    def of(
        cls, version: str, role: str, weight: int, counts: Counts, record: Mapping[str, Any]
    ) -> Arm:
        """From what was counted."""
        requests = counts.number("requests")
        return cls(
            version=version,
            role=role,
            weight=weight,
            requests=requests,
            errors=Share(counts.number("failures"), requests),
            ttft=Spread.of(counts.histogram("ttft")),
            e2e=Spread.of(counts.histogram("e2e")),
            output_tokens=Spread.of(counts.histogram("output_tokens")),
            cost=Spread.of(counts.histogram("cost")),
            reactions=Share(counts.number("feedback"), requests),
            unhappy=Share(counts.number("feedback_failures"), requests),
            metrics=record.get("metrics") or {},
        )


def side_by_side(
    weights: Mapping[str, int],
    roles: Mapping[str, str],
    tallies: Iterable[Tally],
    records: Mapping[str, Mapping[str, Any]],
) -> list[Arm]:
    """Every arm, production first, then the candidate.

    Args:
        weights: by version.
        roles: of those that have one, by version.
        tallies: of kind ``requests`` of the present epoch.
        records: release records by version.
    """
    found = list(tallies)
    order = {"production": 0, "candidate": 1, "": 2}
    arms = [
        Arm.of(
            version,
            roles.get(version, ""),
            weight,
            arm_of(found, version)[OVERALL],
            records.get(version, {}),
        )
        for version, weight in weights.items()
    ]
    return sorted(arms, key=lambda arm: order[arm.role])
