"""Moves rollouts on: one task in each server, of which one acts at a time.

Every server writes what it counted. The one that holds the lease looks at each rollout whose arms
are compared (:class:`~softprompt_serve.server.judging.Judge`). All that a verdict rests on is in the
database, so when that server is killed another goes on where it was, once the lease has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from softprompt_serve.errors import Unavailable
from softprompt_serve.rollout.progress import LIVE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from softprompt_serve.registry.leases import Leases
    from softprompt_serve.registry.replicas import Replicas
    from softprompt_serve.registry.snapshot import Rollout, Snapshot
    from softprompt_serve.registry.tallies import Tallies, Tally
    from softprompt_serve.rollout.tally import Tallier
    from softprompt_serve.server.judging import Judge
    from softprompt_serve.telemetry.events import Operation

logger = logging.getLogger(__name__)

LEASE: Final = "rollout-controller"

_PATIENCE_SECONDS: Final = 5.0
"""How long the end waits for a look that is on its way."""


class Ledger(Protocol):
    """Counts something else of rollouts on the event loop, such as shadows."""

    def dirty(self, replica: str) -> list[Tally]:
        """Rows that changed since they were last asked for; copies."""

    def unwritten(self, tallies: Iterable[Tally]) -> None:
        """Take rows back that could not be written; others' rows among them mean nothing."""


class Pace(NamedTuple):
    """Seconds: between two looks, of a lease, and after which a silent replica is dead."""

    every: float = 1.0
    lease: float = 10.0
    alive: float = 5.0


class Controller:
    """Judges rollouts every so often, while it holds the lease.

    Args:
        judge: looks at one rollout.
        replicas: who must follow a change.
        leases: who may act.
        tallies: where counts are written.
        tallier: counts the answers of this server.
        ledgers: what else counts here.
        snapshot: the catalogue as this server has it; asked on the event loop.
        changed: called on the event loop after a change was made.
        tell: is told there of each decision.
        replica: this server's id.
        pace: how often, how long.

    Attributes:
        error: why the last tick failed, or None.
    """

    def __init__(
        self,
        *,
        judge: Judge,
        replicas: Replicas,
        leases: Leases,
        tallies: Tallies,
        tallier: Tallier,
        ledgers: Sequence[Ledger] = (),
        snapshot: Callable[[], Snapshot],
        changed: Callable[[], Awaitable[object]],
        tell: Callable[[Operation], None] = lambda _: None,
        replica: str,
        pace: Pace,
    ) -> None:
        self.error: str | None = None
        self._judge = judge
        self._replicas = replicas
        self._leases = leases
        self._tallies = tallies
        self._tallier = tallier
        self._ledgers = (tallier, *ledgers)
        self._snapshot = snapshot
        self._changed = changed
        self._tell = tell
        self._replica = replica
        self._pace = pace
        self._task: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()
        self._known: tuple[Snapshot, dict[str, Rollout]] | None = None
        self._pruned: dict[str, int] = {}

    async def start(self) -> None:
        """Begin; waits for nothing."""
        self._ending.clear()
        self._task = asyncio.create_task(self._live(), name="softprompt-controller")

    async def stop(self) -> None:
        """End: write what was counted last, and let another server act at once."""
        if self._task is None:
            return
        self._ending.set()
        _, late = await asyncio.wait({self._task}, timeout=_PATIENCE_SECONDS)
        self._task.cancel()
        self._task = None
        if late:
            return  # the database does not answer; the lease ends by itself
        with contextlib.suppress(Unavailable):
            await asyncio.to_thread(self._tallies.write, self._counted())
            await asyncio.to_thread(self._leases.release, LEASE, self._replica)

    async def tick(self) -> None:
        """Write what was counted; with the lease, judge and act. Never raises."""
        rows: list[Tally] = []
        try:
            tallied = self._tallied()
            self._tallier.keep({name for name, rollout in tallied.items() if compared(rollout)})
            rows = self._counted()
            if await asyncio.to_thread(self._look, rows, tallied):
                await self._changed()
        except Exception as error:  # noqa: BLE001 - the next tick may find everything well
            for ledger in self._ledgers:
                ledger.unwritten(rows)
            self._log(f"{type(error).__name__}: {error}")
        else:
            self._log(None)
        for made in self._judge.made():
            self._tell(made)

    async def _live(self) -> None:
        while not self._ending.is_set():
            await self.tick()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pace.every):
                    await self._ending.wait()

    def _tallied(self) -> dict[str, Rollout]:
        """From the present snapshot; worked out once for each, as there may be many prompts."""
        snapshot = self._snapshot()
        if self._known is None or self._known[0] is not snapshot:
            self._known = snapshot, tallied_rollouts(snapshot)
        return self._known[1]

    def _counted(self) -> list[Tally]:
        return [row for ledger in self._ledgers for row in ledger.dirty(self._replica)]

    def _look(self, rows: list[Tally], tallied: dict[str, Rollout]) -> bool:
        """What waits for the database; whether it changed a rollout."""
        self._tallies.write(rows)
        begun = time.monotonic()
        if not tallied or not self._leases.take(LEASE, self._replica, self._pace.lease):
            return False
        live = self._replicas.live(self._pace.alive)
        changes = 0
        for prompt, rollout in tallied.items():
            if time.monotonic() - begun >= self._pace.lease:
                break  # another server may act by now
            if self._pruned.get(prompt) != rollout.epoch:
                self._tallies.prune(prompt, rollout.epoch)
                self._pruned[prompt] = rollout.epoch
            changes += compared(rollout) and self._judge.look(prompt, live)
        return changes > 0

    def _log(self, error: str | None) -> None:
        """Say each change of health once, not at each tick."""
        if error is not None and self.error is None:
            logger.error("Rollouts can't be judged now: %s", error)
        elif error is None and self.error is not None:
            logger.info("Rollouts are judged again.")
        self.error = error


def tallied_rollouts(snapshot: Snapshot) -> dict[str, Rollout]:
    """Rollouts of which something is counted, by prompt: their arms are compared, or a shadow is."""
    found = {name: prompt.rollout for name, prompt in snapshot.prompts.items()}
    return {
        name: rollout
        for name, rollout in found.items()
        if rollout is not None
        and (compared(rollout) or (rollout.spec is not None and rollout.spec.shadow is not None))
    }


def compared(rollout: Rollout) -> bool:
    """Whether its arms are compared: it has steps or gates, and is not over."""
    spec = rollout.spec
    return spec is not None and rollout.state in LIVE and bool(spec.steps or spec.gates)
