"""What a policy has done where scores have got worse."""

from __future__ import annotations

from typing import Any

import pytest
from release.evidence_of import a_policy, a_run

from softprompt_serve.cli.remedies import Remedy, remedy_of
from softprompt_serve.release.regression import shifts_of
from softprompt_serve.release.shift import adjusted

RUN = "1" * 32
WORSE = ([1.0] * 60, [0.0] * 60)


def remedy(
    evaluator: str = "exact_match", *, baseline: str | None = "v1", on: Any = "rollback", **now: Any
) -> Remedy | None:
    """For v4, which got worse in two cohorts and so in all of them."""
    old, new = (
        a_run({"v4": values}, evaluator=evaluator, cohorts=["default", "regulated"] * 30, id=name)
        for values, name in zip(WORSE, ("0" * 32, RUN), strict=True)
    )
    shifts = adjusted(list(shifts_of(old, new, ["v4"], [evaluator], 0.99)), 0.99)
    rollout = {"production": "v4", "candidate": None, "state": "none"} | now
    return remedy_of(a_policy(watch={"on_shift": on}), baseline, shifts, rollout, RUN)


def test_a_production_that_got_worse_gives_way_to_the_baseline() -> None:
    found = remedy()
    assert found is not None
    assert (found.verb, found.version, found.instead_of) == ("promote", "v1", "v4")
    assert "1.000 to 0.000 on 60 items" in found.reason
    assert ", and 2 more; run 111111111111" in found.reason


@pytest.mark.parametrize("state", ["pending", "progressing", "paused"])
def test_a_candidate_that_got_worse_loses_its_rollout(state: str) -> None:
    found = remedy(production="v2", candidate="v4", state=state)
    assert found is not None
    assert (found.verb, found.version) == ("rollback", "v4")


@pytest.mark.parametrize(
    "now",
    [
        {"on": "report"},
        {"baseline": None},
        {"baseline": "v4"},
        {"production": "v2"},
        {"production": "v2", "candidate": "v4", "state": "static"},
        {"production": None},
    ],
)
def test_whoever_gets_no_traffic_by_a_policy_loses_none(now: dict[str, Any]) -> None:
    assert remedy(**now) is None


def test_a_reason_is_never_longer_than_the_server_takes() -> None:
    found = remedy("python:" + "x" * 190)
    assert found is not None
    assert len(found.reason) <= 500
