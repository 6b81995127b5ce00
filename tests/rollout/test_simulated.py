"""Whole rollouts on drawn traffic, a few of those that benchmarks/controller.py draws."""

from __future__ import annotations

import numpy as np
import pytest
from controller import Outcome, World, document, run

QUICKLY = document(margins=True, answers=120)


def outcomes(world: World, rollouts: int) -> list[Outcome]:
    return [run(np.random.default_rng((7, n)), world, QUICKLY, every=30) for n in range(rollouts)]


def test_arms_that_are_alike_are_promoted() -> None:
    ended = [outcome.action for outcome in outcomes(World("alike"), 60)]
    assert ended.count("rollback") <= 1  # 5 % are allowed; margins make it far less
    assert set(ended) <= {"promote", "rollback"}


@pytest.mark.parametrize(
    "world",
    [
        World("errors", errors=0.1),
        World("nothing works", errors=1.0),
        World("slow", slower={"ttft": 3.0}),
        World("wordy", slower={"output_tokens": 3.0}),
        World("one cohort", slower={"ttft": 6.0}, cohort="long_context"),
    ],
    ids=lambda world: world.label,
)
def test_a_much_worse_candidate_is_rolled_back(world: World) -> None:
    ended = outcomes(world, 4)
    assert {outcome.action for outcome in ended} == {"rollback"}
    assert max(outcome.candidate for outcome in ended) < 400


def test_an_outage_of_everything_is_not_the_candidates() -> None:
    ended = [outcome.action for outcome in outcomes(World("waves", waves=True), 10)]
    assert "rollback" not in ended
