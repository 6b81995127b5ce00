"""Which version answers, and why."""

from __future__ import annotations

import pytest
from router.catalogues import rollout, snapshot, split, without

from softprompt_serve.errors import BadRequest, NotFound, Unavailable
from softprompt_serve.registry.snapshot import EMPTY, Snapshot
from softprompt_serve.router.ask import Ask
from softprompt_serve.router.choose import (
    Absent,
    choose,
    names_prompt,
    plan_for,
    split_model,
)


def pinned(selector: str) -> Ask:
    return Ask(pinned=selector)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("support", ("support", None)),
        ("support@v2", ("support", "v2")),
        ("support@", ("support", "")),
        ("support@a@b", ("support", "a@b")),
    ],
)
def test_a_models_name_is_split_at_its_first_at(
    model: str, expected: tuple[str, str | None]
) -> None:
    assert split_model(model) == expected


# Without a rollout


def test_the_prompts_own_name_is_answered_by_production() -> None:
    decision = choose(snapshot(), "support")
    assert (decision.version.version, decision.reason, decision.arm) == (
        "v1",
        "production",
        "production",
    )


@pytest.mark.parametrize("model", ["support", "support@v2", "support@candidate"])
def test_the_generation_is_0_without_a_rollout(model: str) -> None:
    assert choose(snapshot(), model).generation == 0


def test_a_version_can_be_asked_for() -> None:
    decision = choose(snapshot(), "support@v3")
    assert (decision.version.version, decision.reason, decision.arm) == ("v3", "pinned", "v3")


def test_an_alias_can_be_asked_for() -> None:
    decision = choose(snapshot(), "support@candidate")
    assert (decision.version.version, decision.reason, decision.arm) == (
        "v2",
        "alias",
        "candidate",
    )


def test_the_header_pins_a_version() -> None:
    assert choose(snapshot(), "support", pinned("v3")).version.version == "v3"


def test_header_and_model_may_name_the_same_version_twice() -> None:
    assert choose(snapshot(), "support@v2", pinned("candidate")).version.version == "v2"


def test_header_and_model_that_disagree_are_refused() -> None:
    with pytest.raises((NotFound, BadRequest)) as caught:
        choose(snapshot(), "support@v2", pinned("v3"))
    assert caught.value.param == "x-softprompt-version"


def test_an_unknown_prompt_is_not_found() -> None:
    with pytest.raises(NotFound) as caught:
        choose(snapshot(), "sales")
    assert (caught.value.code, caught.value.param) == ("prompt_not_found", "model")


@pytest.mark.parametrize("model", ["support@v9", "support@", "support@v1@v1", "support@ v1"])
def test_an_unknown_selector_is_not_found(model: str) -> None:
    with pytest.raises(NotFound) as caught:
        choose(snapshot(), model)
    assert caught.value.code == "version_not_found"


@pytest.mark.parametrize("selector", ["v9", "", "V1"])
def test_an_unknown_pin_is_not_found(selector: str) -> None:
    with pytest.raises(NotFound) as caught:
        choose(snapshot(), "support", pinned(selector))
    assert caught.value.code == "version_not_found"


def test_a_prompt_without_production_says_how_to_get_one() -> None:
    with pytest.raises(NotFound, match="has no `production` alias yet") as caught:
        choose(snapshot({}), "support")
    assert caught.value.code == "no_production_version"


def test_asking_for_production_where_there_is_none_is_an_unknown_version() -> None:
    with pytest.raises(NotFound) as caught:
        choose(snapshot({}), "support@production")
    assert caught.value.code == "version_not_found"


@pytest.mark.parametrize("model", ["support", "support@v1", "support@production"])
def test_an_unloaded_version_is_unavailable_and_never_replaced(model: str) -> None:
    with pytest.raises(Unavailable, match="support@v1") as caught:
        choose(snapshot(unloaded=("v1",)), model)
    assert (caught.value.code, caught.value.retry_after) == ("version_unloaded", 5)


@pytest.mark.parametrize("absent", ["fallback", "unavailable"])
def test_production_and_pins_are_loaded_for_the_request_where_not_resident(
    absent: Absent,
) -> None:
    for model in ("support", "support@v2"):
        decision = choose(snapshot(), model, resident=without("v1", "v2"), absent=absent)
        assert decision.passed_over is None


@pytest.mark.parametrize("model", ["support", "support@v1", "support@nonsense", "support@"])
def test_every_way_to_write_a_prompts_name_is_ours(model: str) -> None:
    assert names_prompt(snapshot(), model)


@pytest.mark.parametrize("model", ["base-model", "Support", "org/support", "@v1", ""])
def test_other_names_are_not_ours(model: str) -> None:
    assert not names_prompt(snapshot(), model)


def test_an_empty_catalogue_names_nothing() -> None:
    assert not names_prompt(EMPTY, "support")


# Which plan will decide


def test_a_rollouts_plan_decides_about_the_prompts_name() -> None:
    plan = plan_for(split(v1=1), "support", None)
    assert plan is not None
    assert [name for name, _, _ in plan.split.arms] == ["v1"]


@pytest.mark.parametrize(
    ("model", "selector"), [("support@v2", None), ("support", "v2"), ("sales", None)]
)
def test_no_plan_decides_about_what_is_pinned_or_unknown(model: str, selector: str | None) -> None:
    assert plan_for(split(v1=1), model, selector) is None


@pytest.mark.parametrize("found", [snapshot(), snapshot(routed=rollout(None)), EMPTY])
def test_no_plan_decides_without_a_rollout(found: Snapshot) -> None:
    assert plan_for(found, "support", None) is None
