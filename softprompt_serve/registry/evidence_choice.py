"""Which runs a judgement has to read whole. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from softprompt_serve.registry.evidence_rows import Head
    from softprompt_serve.release.evidence import Run

MAX_PARTS: Final = 1_000_000
"""Scores and answers in all; a judgement that needs more finds no evidence beyond them."""


def whole(heads: Iterable[Head], versions: Collection[str], *, since: float) -> set[str]:
    """Ids of the runs whose scores can matter to what is said of some versions.

    Of runs that are alike (data set, base model, evaluators, digests) the newest stands for all: it
    would be preferred to the others anyway. One in which nobody answered stands for nothing.

    Args:
        heads: a prompt's runs, newest first.
        versions: names of the versions; means without items count for others too.
        since: Unix time; what ended before is too old to be read.
    """
    chosen: set[str] = set()
    seen: set[tuple[object, ...]] = set()
    room = MAX_PARTS
    for head in heads:
        run, parts = head.run, head.scores + head.answers + head.totals
        matters = head.totals or (head.scores and not run.digests.keys().isdisjoint(versions))
        if not matters or run.at < since or parts > room or (kind := _kind(run)) in seen:
            continue
        seen.add(kind)
        chosen.add(run.id)
        room -= parts
    return chosen


def _kind(run: Run) -> tuple[object, ...]:
    return (
        run.dataset,
        run.dataset_sha256,
        run.base,
        tuple(sorted(run.evaluators.items())),
        tuple(sorted(run.digests.items())),
    )
