"""Traffic is kept from unverified versions, whatever named them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from router.catalogues import arms, rollout, rule, snapshot, split

from softprompt_serve.errors import NotFound, Unavailable
from softprompt_serve.registry.snapshot import NOBODY, Shield, Snapshot
from softprompt_serve.router.ask import Ask
from softprompt_serve.router.choose import choose
from softprompt_serve.router.explain import trace
from softprompt_serve.router.shield import shielded

WHY = "trained with weights aaaa, served are bbbb"


def shield(stand_in: str | None = "v1", most: float = 0.0, *names: str) -> Shield:
    return Shield(MappingProxyType(dict.fromkeys(names or ("v2",), WHY)), stand_in, most)


def behind(found: Snapshot, how: Shield) -> Snapshot:
    met = shielded(found.prompts["support"], how)
    return Snapshot(found.revision, MappingProxyType({"support": met}))


def answered(found: Snapshot, model: str = "support", **ask: Any) -> str:
    """Who answers; ``choose`` and ``trace`` agree."""
    asked = Ask(**ask)
    version = choose(found, model, asked).version.version
    assert trace(found, model, asked).version == version
    return version


def test_an_alias_of_an_unverified_version_is_answered_by_the_stand_in() -> None:
    met = behind(snapshot({"production": "v2", "candidate": "v2", "other": "v3"}), shield())
    assert answered(met) == "v1"
    assert answered(met, "support@candidate") == "v1"
    assert answered(met, "support@other") == "v3"


def test_who_pins_it_by_its_name_still_reaches_it() -> None:
    met = behind(snapshot({"production": "v2"}), shield())
    assert answered(met, "support@v2") == "v2"
    assert answered(met, pinned="v2") == "v2"


def test_its_share_of_a_split_goes_to_the_stand_in_and_nobody_else_moves() -> None:
    before = split(v1=40, v2=30, v3=30)
    met = behind(before, shield())
    for number in range(500):
        key = f"user-{number}"
        was, now = answered(before, key=key), answered(met, key=key)
        assert now != "v2"
        assert now in {was, "v1"}


def test_a_rule_that_names_it_is_answered_by_the_stand_in() -> None:
    met = behind(split(rule(version="v2", cohort=["regulated"]), v3=1), shield())
    assert answered(met, cohort="regulated") == "v1"
    assert answered(met) == "v3"


def test_the_document_stays_as_it_was_written() -> None:
    before = split(v1=40, v2=60)
    after = behind(before, shield()).prompts["support"].rollout
    was = before.prompts["support"].rollout
    assert after is not None
    assert was is not None
    assert after.spec == was.spec
    assert dict(after.weights) == {"v1": 100, "v2": 0}


@pytest.mark.parametrize(
    "before",
    [
        snapshot({"production": "v2"}),
        snapshot({"production": "v2"}, routed=rollout({"arms": arms(v2=1)})),
    ],
)
def test_without_a_stand_in_the_request_is_refused_with_the_reason(before: Snapshot) -> None:
    met = behind(before, shield(None))
    with pytest.raises(Unavailable, match="served are bbbb") as refused:
        choose(met, "support")
    assert refused.value.code == "version_unverified"
    assert trace(met, "support", Ask()).version is None


def test_the_name_that_stands_for_nobody_can_not_be_asked_for() -> None:
    met = behind(snapshot({"production": "v2"}), shield(None))
    with pytest.raises(NotFound):
        choose(met, f"support@{NOBODY}")


def test_the_trace_says_why_and_who_stands_in() -> None:
    met = behind(snapshot({"production": "v2"}), shield())
    (said,) = [step for step in trace(met, "support", Ask()).steps if "verification" in step]
    assert WHY in said
    assert "v1 stands in" in said


def test_those_who_may_answer_include_the_stand_in() -> None:
    met = behind(split(v2=60, v3=40), shield())
    assert {v.version for v in met.prompts["support"].serving()} == {"v1", "v2", "v3"}


@given(
    weights=st.dictionaries(st.sampled_from(["v1", "v2", "v3"]), st.integers(0, 1000)).filter(
        lambda found: sum(found.values()) > 0
    ),
    most=st.floats(0, 1),
    stand_in=st.sampled_from(["v1", None]),
)
def test_unverified_versions_never_have_more_than_the_policy_allows(
    weights: Mapping[str, int], most: float, stand_in: str | None
) -> None:
    met = behind(split(**weights), shield(stand_in, most, "v2")).prompts["support"].rollout
    assert met is not None
    assert met.plan is not None
    total, given_total = sum(met.weights.values()), sum(weights.values())
    assert sum(weight for _, _, weight in met.plan.split.arms) == total
    assert met.weights.get("v2", 0) <= most * total
    untouched = weights.get("v3", 0)
    assert met.weights.get("v3", 0) / total == pytest.approx(untouched / given_total)


def test_a_part_that_the_policy_allows_is_kept() -> None:
    met = behind(split(v2=90, v3=10), shield("v1", 0.05))
    found = [answered(met, key=f"user-{number}") for number in range(2000)]
    assert 50 <= found.count("v2") <= 150
    assert found.count("v1") > 1500
