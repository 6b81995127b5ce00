from __future__ import annotations

from dataclasses import replace

import pytest
from release.evidence_of import BASE, V1, V2, V4, a_policy

from softprompt_serve.release.guarding import asks, default_policy
from softprompt_serve.release.verdict import Subject

V0 = Subject("v0", "hard", "0" * 64)


def test_a_prompt_without_learned_versions_asks_nothing() -> None:
    assert default_policy((BASE, V0, V1), {}) is None


def test_the_default_baseline_is_the_newest_hard_version() -> None:
    policy = default_policy((V0, V1, V2), {})
    assert policy is not None
    assert (policy.baseline, policy.win, policy.same_base) == ("v1", (), True)


def test_the_default_baseline_is_alive() -> None:
    policy = default_policy((V0, replace(V1, state="unloaded"), V2), {})
    assert policy is not None
    assert policy.baseline == "v0"


def test_the_default_baseline_is_the_alias_of_that_name() -> None:
    policy = default_policy((V0, V1, V2), {"baseline": "v0"})
    assert policy is not None
    assert policy.baseline == "baseline"


def test_without_a_hard_version_the_default_names_what_is_missing() -> None:
    policy = default_policy((V2,), {})
    assert policy is not None
    assert policy.baseline == "baseline"


def test_a_soft_version_is_asked() -> None:
    assert asks(a_policy(), "production", V4, baseline=V1)


def test_a_prefix_is_asked_like_a_soft_version() -> None:
    prefix = replace(V4, kind="prefix")
    assert default_policy((V1, prefix), {}) == default_policy((V1, V4), {})
    assert asks(a_policy(), "production", prefix, baseline=V1, held={prefix.name})
    assert not asks(a_policy(kinds=["soft"]), "production", prefix, baseline=V1)


def test_an_alias_that_is_not_guarded_is_free() -> None:
    assert not asks(a_policy(), "canary", V4, baseline=V1)
    assert asks(a_policy(guarded=["canary"]), "canary", V4, baseline=V1)


def test_a_rollback_is_never_asked() -> None:
    assert not asks(a_policy(), "production", V2, baseline=V1, rollback=True)


def test_a_soft_version_that_comes_again_is_asked_again() -> None:
    assert asks(a_policy(), "production", V2, baseline=V1, held={"v2"})


@pytest.mark.parametrize("version", [V0, BASE])
def test_what_anybody_can_read_is_asked_only_by_policies_that_say_so(version: Subject) -> None:
    strict = a_policy(kinds=["soft", "hard", "base"])
    assert not asks(a_policy(), "production", version, baseline=V1)
    assert asks(strict, "production", version, baseline=V1)


def test_the_way_back_to_what_anybody_can_read_is_free() -> None:
    strict = a_policy(kinds=["soft", "hard"])
    assert not asks(strict, "production", V1, baseline=V1)
    assert not asks(strict, "production", V0, baseline=V1, held={"v0"})


def test_a_soft_baseline_is_no_way_round() -> None:
    assert asks(a_policy(baseline="v2"), "production", V2, baseline=V2)
