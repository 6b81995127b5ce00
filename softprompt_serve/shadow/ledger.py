"""What this process has counted of shadows since each epoch began, for the database's tallies.

One event loop writes it. Rows are cumulative, so writing one twice counts nothing twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from softprompt_serve.registry.tallies import Tally
from softprompt_serve.rollout.tally import SHADOW
from softprompt_serve.shadow.counts import Counts
from softprompt_serve.telemetry.events import ShadowEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from softprompt_serve.shadow.compare import Comparison, Likelihood
    from softprompt_serve.shadow.types import Cause, Job
    from softprompt_serve.telemetry.events import ShadowStage


class Key(NamedTuple):
    """What is counted together."""

    prompt: str
    epoch: int
    version: str
    cohort: str


class Ledger:
    """Counts by prompt, epoch, candidate version and cohort."""

    def __init__(self, tell: Callable[[ShadowEvent], None] = lambda _: None) -> None:
        """Nothing is counted yet; ``tell`` hears of everything that will be."""
        self._tell = tell
        self._rows: dict[Key, Counts] = {}
        self._dirty: set[Key] = set()
        self._newest: dict[str, int] = {}

    def offered(self, job: Job) -> None:
        """A request was drawn."""
        self._of(job).offer()
        self._tell(_event(job, "offered"))

    def shed(self, job: Job, cause: Cause) -> None:
        """A copy came to nothing, or to no more than what was counted before."""
        self._of(job).drop(cause)
        self._tell(_event(job, "shed", cause=cause))

    def compared(self, job: Job, pair: Comparison) -> None:
        """Both answers are there."""
        self._of(job).compare(pair)
        self._tell(_event(job, "compared", matched=pair.exact))

    def scored(self, job: Job, found: Likelihood) -> None:
        """The candidate was asked what it thinks of the user's answer."""
        self._of(job).score(found)
        self._tell(_event(job, "scored", divergence=found.divergence))

    def dirty(self, replica: str) -> list[Tally]:
        """Rows that changed since this was last asked, as of now, counted by ``replica``."""
        past = {
            key
            for key in self._rows.keys() - self._dirty
            if key.epoch < self._newest.get(key.prompt, 0)
        }
        for key in past:
            del self._rows[key]
        changed, self._dirty = sorted(self._dirty), set()
        return [
            Tally(
                prompt=key.prompt,
                epoch=key.epoch,
                replica=replica,
                kind=SHADOW,
                version=key.version,
                cohort=key.cohort,
                data=self._rows[key].to_json(),
            )
            for key in changed
        ]

    def unwritten(self, tallies: Iterable[Tally]) -> None:
        """These could not be written: :meth:`dirty` gives those of ours among them again."""
        keys = {Key(t.prompt, t.epoch, t.version, t.cohort) for t in tallies if t.kind == SHADOW}
        self._dirty |= keys & self._rows.keys()

    def _of(self, job: Job) -> Counts:
        decision = job.decision
        key = Key(decision.version.prompt, decision.epoch, job.candidate.version, decision.cohort)
        newest = max(decision.epoch, self._newest.get(key.prompt, 0))
        self._newest[key.prompt] = newest
        counts = self._rows.get(key)
        if counts is None:
            counts = Counts()
            if key.epoch < newest:
                return counts  # its row may have been written and forgotten: never begin it anew
            self._rows[key] = counts
        self._dirty.add(key)
        return counts


def _event(
    job: Job,
    stage: ShadowStage,
    *,
    cause: Cause | None = None,
    matched: bool | None = None,
    divergence: float | None = None,
) -> ShadowEvent:
    decision = job.decision
    return ShadowEvent(
        prompt=decision.version.prompt,
        cohort=decision.cohort,
        version=job.candidate.version,
        against=decision.version.version,
        stage=stage,
        cause=cause,
        matched=matched,
        divergence=divergence,
    )
