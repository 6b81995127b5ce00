"""What is counted of a shadow: numbers that only grow and add up, as plain JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from softprompt_serve.rollout.histogram import Histogram
from softprompt_serve.shadow.intervals import Moments

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from softprompt_serve.shadow.compare import Comparison, Likelihood
    from softprompt_serve.shadow.types import Cause

MEANS: Final = (
    "similarity",
    "word_similarity",
    "length_delta",
    "token_delta",
    "ttft_delta",
    "e2e_delta",
    "divergence",
    "surprise",
)
"""What has a mean, in the units of :mod:`softprompt_serve.shadow.compare`."""


class Counts:
    """Of one candidate version and cohort, or of several together.

    As JSON, every count below is a field of its own, with ``shed`` by cause, ``means`` as
    ``[count, sum, sum of squares]`` and ``divergence``, a histogram of nats per token
    (:mod:`softprompt_serve.rollout.histogram`). What is zero may be missing.

    Attributes:
        counts: ``offered`` (requests that were drawn), ``pairs`` (answers compared), ``exact``,
            ``mismatches`` (the pairs that are not exact), ``finish_equal``, ``tools_compared``
            (either answer asks for a tool call), ``tools_equal``, ``json_asked``,
            ``json_valid_user``, ``json_valid_shadow``, ``scored`` (answers whose likelihood was
            measured) and ``scored_tokens``.
        shed: copies that came to nothing, by cause.
        means: by name, see :data:`MEANS`.
        divergence: of each scored answer, nats per token; all negative ones in one bucket.
    """

    __slots__ = ("counts", "divergence", "means", "shed")

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.shed: dict[str, int] = {}
        self.means = {name: Moments() for name in MEANS}
        self.divergence = Histogram("nats")

    @classmethod
    def merged(cls, rows: Iterable[Mapping[str, Any]]) -> Counts:
        """The sum of what several replicas, or cohorts, have counted, each as JSON."""
        found = cls()
        for row in rows:
            found.merge_json(row)
        return found

    def __getitem__(self, name: str) -> int:
        """One of the counts."""
        return self.counts.get(name, 0)

    def offer(self) -> None:
        """Count a request that was drawn."""
        _count(self.counts, "offered")

    def drop(self, cause: Cause) -> None:
        """Count a copy that came to nothing."""
        _count(self.shed, cause)

    def compare(self, pair: Comparison) -> None:
        """Count a pair."""
        counted = {
            "pairs": True,
            "exact": pair.exact,
            "mismatches": not pair.exact,
            "finish_equal": pair.finish_equal,
            "tools_compared": pair.tools_equal is not None,
            "tools_equal": bool(pair.tools_equal),
        }
        if pair.json_valid is not None:
            user, shadow = pair.json_valid
            counted |= {"json_asked": True, "json_valid_user": user, "json_valid_shadow": shadow}
        for name, holds in counted.items():
            _count(self.counts, name, int(holds))
        self.means["similarity"].add(pair.similarity)
        self.means["word_similarity"].add(pair.word_similarity)
        self.means["length_delta"].add(pair.length_delta)
        self.means["token_delta"].add(pair.token_delta)
        self.means["e2e_delta"].add(pair.e2e_delta)
        if pair.ttft_delta is not None:
            self.means["ttft_delta"].add(pair.ttft_delta)

    def score(self, found: Likelihood) -> None:
        """Count an answer whose likelihood was measured."""
        _count(self.counts, "scored")
        _count(self.counts, "scored_tokens", found.tokens)
        self.means["divergence"].add(found.divergence)
        self.means["surprise"].add(found.surprise)
        self.divergence.add(found.divergence)

    def to_json(self) -> dict[str, Any]:
        """Everything, as a copy."""
        return {
            **self.counts,
            "shed": dict(self.shed),
            "means": {name: found.to_json() for name, found in self.means.items() if found.count},
            "divergence": self.divergence.to_json(),
        }

    def merge_json(self, data: Mapping[str, Any]) -> None:
        """Add what :meth:`to_json` gives; what another release counts besides is left out."""
        for name, value in data.items():
            if isinstance(value, int):
                _count(self.counts, name, value)
        for cause, value in data.get("shed", {}).items():
            _count(self.shed, cause, value)
        for name, moments in data.get("means", {}).items():
            if name in self.means:
                self.means[name].merge_json(moments)
        self.divergence.merge_json(data.get("divergence", {}))


def _count(counts: dict[str, int], name: str, times: int = 1) -> None:
    counts[name] = counts.get(name, 0) + times
