"""What the residency page shows: each worker's bank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from softprompt_serve.artifact.content import keys_of
from softprompt_serve.console.figures import TONES, segments
from softprompt_serve.console.notes import Notes
from softprompt_serve.server import admin

if TYPE_CHECKING:
    from collections.abc import Mapping

    from softprompt_serve.console.figures import Segment
    from softprompt_serve.server.service import Service


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker's bank.

    Attributes:
        status: as the worker tells it.
        bar: its rows by digest.
    """

    status: Mapping[str, Any]
    bar: list[Segment]


@dataclass(frozen=True, slots=True)
class ResidencyPage:
    """What each worker holds.

    Attributes:
        workers: None if they can't be asked.
        labels: the versions that have a content, by digest; and whose keys and values are kept.
        leases: requests of this server in flight, by version.
    """

    workers: list[Worker] | None
    labels: Mapping[str, list[str]]
    leases: Mapping[str, int]
    notes: list[str]


async def residency_page(service: Service) -> ResidencyPage:
    """Ask all workers."""
    notes = Notes()
    labels: dict[str, list[str]] = {}
    for version in service.snapshot.versions():
        labels.setdefault(version.digest, []).append(version.label)
        if version.kind == "soft":
            kept = labels.setdefault(keys_of(version.digest), [])
            kept.append(f"{version.label}, keys and values")
    found = await notes.or_none(admin.residency(service))
    if found is None:
        return ResidencyPage(None, labels, {}, notes.said)
    workers = [Worker(status, _rows(status)) for status in found.workers]
    return ResidencyPage(workers, labels, found.leases, notes.said)


def _rows(status: Mapping[str, Any]) -> list[Segment]:
    resident: dict[str, float] = dict(status.get("resident", {}))
    tones = {digest: index % TONES for index, digest in enumerate(resident)}
    return segments(resident, tones=tones, whole=status.get("capacity_rows"))
