"""Which runs a judgement reads whole."""

from __future__ import annotations

from dataclasses import replace

import pytest
from runs import AT, published, run_id, scored

from softprompt_serve.registry import evidence_choice
from softprompt_serve.registry.evidence_choice import whole
from softprompt_serve.registry.evidence_rows import Head
from softprompt_serve.release.evidence import Base, Run

TWO = {"v1": "1" * 64, "v2": "2" * 64}


def chosen(*runs: Run, versions: tuple[str, ...] = ("v1", "v2"), since: float = 0.0) -> set[str]:
    """Ids; the runs are given newest first."""
    dated = [replace(run, id=run_id(at), at=AT - at) for at, run in enumerate(runs)]
    found = whole([Head.of(run) for run in dated], versions, since=since)
    return {f"{int(name, 16)}" for name in found}


def test_of_runs_that_are_alike_the_newest_is_read() -> None:
    assert chosen(scored(TWO), scored(TWO), scored(TWO)) == {"0"}


@pytest.mark.parametrize(
    "other",
    [
        scored(TWO, dataset="held_out"),
        scored(TWO, dataset_sha256="b" * 64),
        scored(TWO, base=Base("another")),
        scored(TWO, evaluators=("f1",)),
        replace(scored(TWO), evaluators={"exact_match": "2"}),
        scored({**TWO, "v3": "3" * 64}),
    ],
)
def test_what_differs_is_read_too(other: Run) -> None:
    assert chosen(scored(TWO), other) == {"0", "1"}


def test_a_run_in_which_nobody_answered_stands_for_nothing() -> None:
    silent = scored(TWO, scores=())
    assert chosen(silent, scored(TWO)) == {"1"}


def test_what_is_too_old_is_not_read() -> None:
    assert chosen(scored(TWO), scored(TWO, dataset="held_out"), since=AT - 0.5) == {"0"}


def test_scores_of_other_versions_are_not_read_but_their_means_are() -> None:
    other = {"v3": "3" * 64}
    assert chosen(scored(other), published(other), versions=("v1",)) == {"1"}


def test_no_more_is_read_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence_choice, "MAX_PARTS", 20)
    runs = [scored(TWO, dataset=f"set-{at}") for at in range(3)]
    assert chosen(*runs) == {"0"}
