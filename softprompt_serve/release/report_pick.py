"""Which stored runs a report needs: few enough to fetch whole, from a list without contents. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Data = Mapping[str, Any]

MOST_ALIKE: Final = 3
"""Runs of one data set and evaluator that are read: the newest of them may not count."""


def runs_needed(
    heads: Sequence[Data],
    candidate: str,
    digests: Mapping[str, str],
    verdict: Data | None,
    fingerprint: str | None,
) -> list[str]:
    """Ids of the runs to read, the newest first.

    Those that the verdict names; for each data set and evaluator the newest with the candidate as
    it is now, on the served base model before others; and for each other version that none of
    them has, the newest run of the same items that has it.

    Args:
        heads: runs as ``GET /prompts/{name}/runs`` lists them, newest first.
        candidate: the version that the report is about.
        digests: version → its digest now.
        verdict: as ``GET …/gates`` answers it, or None.
        fingerprint: of the served base model's weights, or None.
    """
    named = {gate["numbers"].get("run") for gate in (verdict or {}).get("gates", ())}
    kept = [head for head in heads if head["id"] in named]
    present = [head for head in heads if _knows(head, candidate, digests)]
    counts: Counter[tuple[str, str]] = Counter()
    for head in sorted(present, key=lambda head: head["base"]["fingerprint"] != fingerprint):
        keys = [(head["dataset"], evaluator) for evaluator in head["evaluators"]]
        if any(counts[key] < MOST_ALIKE for key in keys):
            kept.append(head)
        counts.update(keys)
    kept += _for_others(heads, kept, digests)
    ids = {head["id"] for head in kept}
    return [head["id"] for head in heads if head["id"] in ids]


def _for_others(
    heads: Iterable[Data], kept: Sequence[Data], digests: Mapping[str, str]
) -> Iterable[Data]:
    items = {head["dataset_sha256"] for head in kept}
    had = {part for head in kept for part in _parts(head, digests)}
    for head in heads:
        parts = _parts(head, digests)
        if head["dataset_sha256"] in items and parts - had:
            had |= parts
            yield head


def _parts(head: Data, digests: Mapping[str, str]) -> set[tuple[str, str]]:
    """``(items, version)`` for each version that a run knows."""
    return {
        (head["dataset_sha256"], name) for name in head["digests"] if _knows(head, name, digests)
    }


def _knows(head: Data, version: str, digests: Mapping[str, str]) -> bool:
    digest = head["digests"].get(version)
    return digest is not None and digests.get(version, digest) == digest
