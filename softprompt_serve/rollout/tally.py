"""What this replica counts of each arm, by cohort, for as long as arms are compared.

A :class:`Tallier` listens to request events on the event loop, where nothing else touches it. Its
rows are written by the controller and hold all that was counted since the epoch began.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from softprompt_serve.registry.tallies import Tally
from softprompt_serve.rollout.cost import Prices
from softprompt_serve.rollout.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

    from softprompt_serve.rollout.histogram import Kind
    from softprompt_serve.telemetry.events import Feedback, RequestEvent

REQUESTS: Final = "requests"
SHADOW: Final = "shadow"

MEASURED: Final[dict[str, Kind]] = {
    "ttft": "seconds",
    "e2e": "seconds",
    "output_tokens": "tokens",
    "cost": "usd",
    "divergence": "nats",
}
"""The histograms by their names in a tally's data."""

_CLIENT_ERROR, _CLIENT_GONE, _SERVER_ERROR = 400, 499, 500


class Place(NamedTuple):
    """Whose answers a row counts."""

    version: str
    cohort: str


class Counts:
    """Counts and histograms of one version, by name; a name that was never counted is 0.

    Names of counts: ``requests`` (answers and failures, without the client's own errors),
    ``failures`` and ``feedback_failures`` among them, ``feedback``; ``pairs`` and ``mismatches`` of
    a shadow. Histograms: :data:`MEASURED`.
    """

    __slots__ = ("histograms", "numbers")

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.histograms: dict[str, Histogram] = {}

    def number(self, name: str) -> int:
        """One count."""
        return self.numbers.get(name, 0)

    def histogram(self, name: str) -> Histogram:
        """One histogram, empty if nothing was measured."""
        found = self.histograms.get(name)
        return Histogram(MEASURED[name]) if found is None else found

    def count(self, name: str, by: int = 1) -> None:
        """Count something."""
        self.numbers[name] = self.numbers.get(name, 0) + by

    def measure(self, name: str, value: float) -> None:
        """Add a value to a histogram."""
        self._own(name).add(value)

    def to_json(self) -> dict[str, Any]:
        """A tally's data: a number or ``{bucket: count}`` for each name; a copy."""
        measured = {name: found.to_json() for name, found in self.histograms.items()}
        return {**self.numbers, **measured}

    def merge(self, other: Counts) -> None:
        """Add another's counts."""
        for name, found in other.numbers.items():
            self.count(name, found)
        for name, histogram in other.histograms.items():
            self._own(name).merge(histogram)

    def merge_json(self, data: Mapping[str, Any]) -> None:
        """Add a tally's data; names that mean nothing here are left out."""
        for name, found in data.items():
            if isinstance(found, int):
                self.count(name, found)
            elif name in MEASURED:
                self._own(name).merge_json(found)

    def _own(self, name: str) -> Histogram:
        if (histogram := self.histograms.get(name)) is None:
            histogram = self.histograms[name] = Histogram(MEASURED[name])
        return histogram


class Tallier:
    """A listener of requests and feedback: counts what the sticky split chose a version for.

    It is used on the event loop alone. Per prompt only the newest epoch is kept, so that it stays
    as small as the rollouts' arms times the declared cohorts.
    """

    def __init__(self, prices: Prices | None = None) -> None:
        self._prices = Prices() if prices is None else prices
        self._epochs: dict[str, _Epoch] = {}

    def __call__(self, event: RequestEvent) -> None:
        """Count a request: an answer, or a failure of the server's.

        The client's own errors (4xx) count nothing. Nor does a client that went away, except for
        how long it waited for its first token: a version that hangs is answered to nobody.
        """
        decision = event.decision
        if not event.compared or decision.generation <= 0:
            return
        if _CLIENT_ERROR <= event.status < _SERVER_ERROR and event.status != _CLIENT_GONE:
            return
        version = decision.version
        counts = self._counts(version.prompt, decision.epoch, version.version, decision.cohort)
        if counts is None:
            return
        if event.status == _CLIENT_GONE:
            waited = event.ttft_seconds
            counts.measure("ttft", event.e2e_seconds if waited is None else waited)
            return
        counts.count("requests")
        if event.failed:
            counts.count("failures")
            return
        if event.ttft_seconds is not None:
            counts.measure("ttft", event.ttft_seconds)
        counts.measure("e2e", event.e2e_seconds)
        counts.measure("output_tokens", event.output_tokens)
        if (cost := self._prices.cost(event)) is not None:
            counts.measure("cost", cost)

    def reacted(self, told: Feedback) -> None:
        """Count that a user reacted to an answer, and was unhappy with it; each once an answer."""
        answer = told.answer
        if not answer.compared or answer.generation <= 0 or not (told.first or told.first_unhappy):
            return
        counts = self._counts(answer.prompt, answer.epoch, answer.version, answer.cohort)
        if counts is not None:
            counts.count("feedback", int(told.first))
            counts.count("feedback_failures", int(told.first_unhappy))

    def dirty(self, replica: str) -> list[Tally]:
        """Rows that changed since they were last asked for; copies."""
        found = []
        for prompt, epoch in self._epochs.items():
            for place in epoch.dirty:
                data = epoch.counts[place].to_json()
                found.append(Tally(prompt, epoch.number, replica, REQUESTS, *place, data))
            epoch.dirty.clear()
        return found

    def unwritten(self, tallies: Iterable[Tally]) -> None:
        """Take rows back that could not be written: they are dirty again."""
        for tally in tallies:
            epoch = self._epochs.get(tally.prompt)
            if epoch is not None and epoch.number == tally.epoch:
                epoch.dirty.add(Place(tally.version, tally.cohort))

    def keep(self, prompts: Container[str]) -> None:
        """Forget all prompts but these."""
        self._epochs = {
            prompt: epoch for prompt, epoch in self._epochs.items() if prompt in prompts
        }

    def _counts(self, prompt: str, epoch: int, version: str, cohort: str) -> Counts | None:
        """Where to count, marked as changed; None if that epoch is over."""
        current = self._epochs.get(prompt)
        if current is None or current.number < epoch:
            current = self._epochs[prompt] = _Epoch(epoch)
        elif current.number > epoch:
            return None
        place = Place(version, cohort)
        if (counts := current.counts.get(place)) is None:
            counts = current.counts[place] = Counts()
        current.dirty.add(place)
        return counts


class _Epoch:
    """One comparison of a prompt's arms: counts by version and cohort."""

    __slots__ = ("counts", "dirty", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.counts: dict[Place, Counts] = {}
        self.dirty: set[Place] = set()
