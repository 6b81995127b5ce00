"""Counts in log-spaced buckets: quantiles of latencies, tokens and costs that add up over replicas.

Bucket 0 is everything up to the kind's least value, bucket i what lies in
``(least · 2^((i-1)/32), least · 2^(i/32)]``, so that an edge is 2.2 % above the one before; the last
bucket has no upper edge.
"""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind = Literal["seconds", "tokens", "usd", "nats"]
"""What is counted; each kind has its own, fixed buckets."""

PER_DOUBLING: Final = 32

_RANGES: Final[dict[Kind, tuple[float, float]]] = {
    "seconds": (1e-3, 3600.0),
    "tokens": (1.0, 1e6),
    "usd": (1e-8, 1e3),
    "nats": (1e-4, 1e2),
}
_TOP: Final[dict[Kind, int]] = {
    kind: math.ceil(math.log2(most / least) * PER_DOUBLING) + 1
    for kind, (least, most) in _RANGES.items()
}


class Histogram:
    """Counts by bucket of one kind; grows by :meth:`add` and :meth:`merge`.

    Attributes:
        kind: which buckets it has.
        count: how many values were added.
    """

    __slots__ = ("_buckets", "count", "kind")

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.count = 0
        self._buckets: dict[int, int] = {}

    @classmethod
    def from_json(cls, kind: Kind, data: Mapping[str, int]) -> Self:
        """Read what :meth:`to_json` wrote."""
        found = cls(kind)
        found.merge_json(data)
        return found

    def to_json(self) -> dict[str, int]:
        """``{bucket: count}`` of those that are not empty; a copy."""
        return {str(bucket): count for bucket, count in self._buckets.items()}

    def add(self, value: float) -> None:
        """Count one value in the kind's unit; NaN is not counted."""
        if value != value:  # noqa: PLR0124 - NaN, which belongs to no bucket
            return
        bucket = bucket_of(self.kind, value)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.count += 1

    def merge(self, other: Histogram) -> None:
        """Add another's counts.

        Raises:
            ValueError: it is of another kind.
        """
        if other.kind != self.kind:
            msg = f"a histogram of {other.kind} can't be added to one of {self.kind}"
            raise ValueError(msg)
        for bucket, count in other._buckets.items():
            self._put(bucket, count)

    def merge_json(self, data: Mapping[str, int]) -> None:
        """Add counts as :meth:`to_json` gives them."""
        for bucket, count in data.items():
            self._put(int(bucket), count)

    @property
    def buckets(self) -> Mapping[int, int]:
        """The counts by bucket, without empty ones; read-only."""
        return MappingProxyType(self._buckets)

    def above(self, bucket: int) -> int:
        """How many values are larger than the bucket's upper edge."""
        return sum(count for found, count in self._buckets.items() if found > bucket)

    def at_rank(self, rank: int) -> int:
        """The bucket of the ``rank``-th smallest value.

        Args:
            rank: 1 … ``count``.

        Raises:
            ValueError: there is no such value.
        """
        if not 1 <= rank <= self.count:
            msg = f"rank {rank} of {self.count} values"
            raise ValueError(msg)
        below = 0
        for bucket in sorted(self._buckets):
            below += self._buckets[bucket]
            if below >= rank:
                return bucket
        raise AssertionError  # pragma: no cover - the counts add up to `count`

    def quantile(self, q: float) -> float | None:
        """An estimate of the quantile: its bucket's middle; None of no values."""
        if not self.count:
            return None
        bucket = self.at_rank(min(self.count, max(1, math.ceil(q * self.count))))
        low, high = lower_edge(self.kind, bucket), upper_edge(self.kind, bucket)
        if low == 0.0:
            return high
        return low if math.isinf(high) else math.sqrt(low * high)

    def _put(self, bucket: int, count: int) -> None:
        self._buckets[bucket] = self._buckets.get(bucket, 0) + count
        self.count += count


def bucket_of(kind: Kind, value: float) -> int:
    """The bucket that a value falls into; an edge belongs to the bucket below it.

    So whatever is counted above that bucket is larger than ``value``.
    """
    least, _ = _RANGES[kind]
    if value <= least:
        return 0
    top = _TOP[kind]
    if value > least * math.exp2((top - 1) / PER_DOUBLING):
        return top
    # A hair less: an edge, as computed, must not fall into the bucket above it.
    return max(1, math.ceil(math.log2(value / least) * PER_DOUBLING - 1e-9))


def upper_edge(kind: Kind, bucket: int) -> float:
    """The largest value in a bucket; infinity for the last."""
    if bucket >= _TOP[kind]:
        return math.inf
    return _RANGES[kind][0] * math.exp2(bucket / PER_DOUBLING)


def lower_edge(kind: Kind, bucket: int) -> float:
    """What every value in a bucket is larger than; 0 for the first."""
    return 0.0 if bucket <= 0 else upper_edge(kind, min(bucket, _TOP[kind]) - 1)
