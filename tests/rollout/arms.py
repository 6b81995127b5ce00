"""What was counted of two arms, for tests of gates and of progress."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from softprompt_serve.registry.tallies import Tally
from softprompt_serve.rollout.tally import Counts

COHORTS = ("default", "regulated")
EPOCH = 3


def counts(
    requests: int = 0, failures: int = 0, *, feedback: int = 0, **measured: Iterable[float]
) -> Counts:
    """So many requests and failures among them, and measured values by metric."""
    found = Counts()
    found.count("requests", requests)
    found.count("failures", failures)
    found.count("feedback_failures", feedback)
    for name, values in measured.items():
        for value in values:
            found.measure(name, value)
    return found


def tally(
    version: str,
    requests: int = 0,
    failures: int = 0,
    *,
    replica: str = "a",
    cohort: str = "default",
    **measured: Any,
) -> Tally:
    """A row of a replica's."""
    data = counts(requests, failures, **measured).to_json()
    return Tally("support", EPOCH, replica, "requests", version, cohort, data)


def shadow(version: str, cohort: str = "default", **data: Any) -> Tally:
    """A row about shadow answers."""
    return Tally("support", EPOCH, "a", "shadow", version, cohort, data)
