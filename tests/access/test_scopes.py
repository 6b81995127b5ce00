from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt_serve.access.scopes import ADMIN, BASE, Grant
from softprompt_serve.errors import Forbidden

names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)


def bound(*prompts: str) -> Grant:
    return Grant.of("ci", ("reader",), prompts)


@pytest.mark.parametrize(
    ("pattern", "prompt", "covered"),
    [
        ("support", "support", True),
        ("support", "support2", False),
        ("support*", "support", True),
        ("support*", "support-eu", True),
        ("support*", "a-support", False),
        ("*-eu", "support-eu", True),
        ("a.b", "axb", False),
        ("*", "anything", True),
        (BASE, "base", False),
        (BASE, BASE, False),
        (BASE, "", False),
    ],
)
def test_a_star_stands_for_anything_and_nothing_else_does(
    pattern: str, prompt: str, covered: bool
) -> None:
    assert bound(pattern).covers(prompt) is covered


@given(names)
def test_without_patterns_every_prompt_is_covered(name: str) -> None:
    assert ADMIN.covers(name)
    assert ADMIN.covers_base


@given(names, names)
def test_a_name_without_a_star_covers_itself_alone(name: str, other: str) -> None:
    assert bound(name).covers(other) == (name == other)


def test_the_base_model_is_no_prompt() -> None:
    assert not bound("*").covers_base
    assert bound("support", BASE).covers_base


@pytest.mark.parametrize("prompt", ["legal", None])
def test_a_refusal_says_what_the_token_is_for(prompt: str | None) -> None:
    with pytest.raises(Forbidden, match=r"`support\*`") as caught:
        bound("support*").check_prompt(prompt)
    assert caught.value.code == "token_prompts"


@pytest.mark.parametrize(
    ("claimed", "actor"), [(None, "ci"), ("", "ci"), ("ada", "ci/ada"), ("x" * 128, None)]
)
def test_the_tokens_name_comes_first(claimed: str | None, actor: str | None) -> None:
    signed = bound().signs(claimed)
    assert signed == (actor or f"ci/{'x' * 125}")


def test_the_one_token_of_the_settings_signs_as_it_is_told() -> None:
    assert ADMIN.signs("ada") == "ada"
    assert ADMIN.signs(None) is None
