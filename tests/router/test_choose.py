"""Which version answers, and why."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from softprompt_serve.errors import BadRequest, NotFound, Unavailable
from softprompt_serve.registry.snapshot import EMPTY, Prompt, Snapshot, Version
from softprompt_serve.router.choose import choose, names_prompt, split_model


def version(name: str, *, wanted: bool = True) -> Version:
    return Version(
        prompt="support",
        version=name,
        digest=name * 32,
        kind="soft",
        virtual_tokens=20,
        hidden_size=8,
        dtype="float32",
        text=None,
        wanted=wanted,
        created_at="2026-01-01T00:00:00Z",
        created_by=None,
    )


def snapshot(aliases: dict[str, str] | None = None, *, wanted: bool = True) -> Snapshot:
    versions = {name: version(name, wanted=wanted) for name in ("v1", "v2", "v3")}
    given = {"production": "v1", "candidate": "v2"} if aliases is None else aliases
    prompt = Prompt("support", MappingProxyType(versions), MappingProxyType(given))
    return Snapshot(7, MappingProxyType({"support": prompt}))


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


def test_the_prompts_own_name_is_answered_by_production() -> None:
    decision = choose(snapshot(), "support")
    assert (decision.version.version, decision.reason, decision.arm) == (
        "v1",
        "production",
        "production",
    )


def test_a_decision_names_the_revision_it_was_made_on() -> None:
    assert choose(snapshot(), "support").generation == 7


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
    assert choose(snapshot(), "support", "v3").version.version == "v3"


def test_header_and_model_may_name_the_same_version_twice() -> None:
    assert choose(snapshot(), "support@v2", "candidate").version.version == "v2"


def test_header_and_model_that_disagree_are_refused() -> None:
    with pytest.raises((NotFound, BadRequest)) as caught:
        choose(snapshot(), "support@v2", "v3")
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


@pytest.mark.parametrize("pinned", ["v9", "", "V1"])
def test_an_unknown_pin_is_not_found(pinned: str) -> None:
    with pytest.raises(NotFound) as caught:
        choose(snapshot(), "support", pinned)
    assert caught.value.code == "version_not_found"


def test_a_prompt_without_production_says_how_to_get_one() -> None:
    with pytest.raises(NotFound, match="has no `production` alias yet") as caught:
        choose(snapshot({}), "support")
    assert caught.value.code == "no_production_version"


def test_asking_for_production_where_there_is_none_is_an_unknown_version() -> None:
    with pytest.raises(NotFound) as caught:
        choose(snapshot({}), "support@production")
    assert caught.value.code == "version_not_found"


def test_an_unloaded_version_is_unavailable_and_never_replaced() -> None:
    with pytest.raises(Unavailable, match="support@v1") as caught:
        choose(snapshot(wanted=False), "support")
    assert (caught.value.code, caught.value.retry_after) == ("version_unloaded", 5)


@pytest.mark.parametrize("model", ["support", "support@v1", "support@nonsense", "support@"])
def test_every_way_to_write_a_prompts_name_is_ours(model: str) -> None:
    assert names_prompt(snapshot(), model)


@pytest.mark.parametrize("model", ["base-model", "Support", "org/support", "@v1", ""])
def test_other_names_are_not_ours(model: str) -> None:
    assert not names_prompt(snapshot(), model)


def test_an_empty_catalogue_names_nothing() -> None:
    assert not names_prompt(EMPTY, "support")
