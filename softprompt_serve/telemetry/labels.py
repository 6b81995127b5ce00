"""What labels may say. Names that exist come from the catalogue, others are ``other``.

A series lasts as long as its process, so each set of label values has a limit.
"""

from __future__ import annotations

import os
from collections.abc import Hashable
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from softprompt_serve.registry.snapshot import PRODUCTION
from softprompt_serve.router.ask import OTHER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Counter

    from softprompt_serve.registry.snapshot import Prompt, Snapshot
    from softprompt_serve.telemetry.events import TraceRef

Value = TypeVar("Value", bound=Hashable)

LABELS: Final = ("prompt", "version", "arm", "cohort", "route", "base_model")
"""Labels of what is counted by request."""


def multiprocess() -> bool:
    """Whether several processes write metrics into files; such metrics have no exemplars."""
    return "PROMETHEUS_MULTIPROC_DIR" in os.environ


def exemplar(trace: TraceRef | None) -> dict[str, str] | None:
    """What leads from a measurement to its trace, if that is recorded."""
    if trace is None or not trace.sampled:
        return None
    return {"trace_id": trace.trace_id, "span_id": trace.span_id}


def meant(prompt: Prompt) -> Iterator[tuple[str, str]]:
    """Version and ``arm`` of each request that names the prompt or one of its aliases.

    The arms of the rollout come first, then those of its rules, then production and other aliases.
    Versions that are unloaded are left out.
    """
    selectors: list[str] = []
    if (rollout := prompt.rollout) is not None and rollout.plan is not None:
        selectors += rollout.weights  # those at weight 0 too: they are about to get some
        selectors += [arm for rule in rollout.plan.rules for arm, _, _ in rule.split.arms]
    selectors += sorted(prompt.aliases, key=lambda alias: alias != PRODUCTION)
    for selector in dict.fromkeys(selectors):
        version = prompt.find(selector)
        if version is not None and version.wanted:
            yield version.version, selector


class Bounded(Generic[Value]):
    """Values with series of their own: the first so many that come. Not for several threads.

    Args:
        limit: how many those are.
        collapsed: counts each time that a value is refused.
    """

    def __init__(self, limit: int, collapsed: Counter) -> None:
        self._limit = limit
        self._collapsed = collapsed
        self._own: set[Value] = set()

    def admits(self, value: Value) -> bool:
        """Whether the value has series of its own; from now on, if there is room."""
        if value in self._own:
            return True
        if len(self._own) >= self._limit:
            self._collapsed.inc()
            return False
        self._own.add(value)
        return True

    def reserves(self, value: Value) -> bool:
        """The same for what nobody has asked for yet, which takes half of the room at most."""
        if value not in self._own and len(self._own) * 2 >= self._limit:
            return False
        self._own.add(value)
        return True


class Prompts:
    """Labels of prompts: names of the catalogue, as this process last read it."""

    def __init__(self, limit: int, collapsed: Counter) -> None:
        self._own: Bounded[str] = Bounded(limit, collapsed)
        self._known: frozenset[str] = frozenset()

    def learn(self, snapshot: Snapshot) -> None:
        """These prompts exist now."""
        self._known = frozenset(snapshot.prompts)

    def label(self, name: str) -> str:
        """The name, or ``other`` if no such prompt exists or too many had a label."""
        return name if name in self._known and self._own.admits(name) else OTHER
