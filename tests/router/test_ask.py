"""The bounded labels of a request."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt_serve.router.ask import Labels
from softprompt_serve.settings import Settings

LABELS = Labels(
    cohorts=("regulated", "multilingual"),
    routes=("planner", "final_answer"),
    headers=frozenset({"x-tier"}),
    long_context_tokens=1000,
)


def cohort(declared: str | None = None, *, tools: bool = False, tokens: int | None = 10) -> str:
    return LABELS.cohort(declared, tools=tools, visible_tokens=tokens)


def test_a_declared_cohort_is_the_label() -> None:
    assert cohort("regulated") == "regulated"


@pytest.mark.parametrize("declared", ["unheard-of", "", "Regulated", " regulated", "other"])
def test_an_undeclared_cohort_is_other(declared: str) -> None:
    assert cohort(declared) == "other"


@pytest.mark.parametrize("declared", ["default", "long_context", "tool_calling"])
def test_a_client_cannot_claim_a_label_that_the_server_gives(declared: str) -> None:
    assert cohort(declared) == "other"


def test_without_a_cohort_the_label_is_default() -> None:
    assert cohort() == "default"


@pytest.mark.parametrize(("tokens", "expected"), [(999, "default"), (1000, "long_context")])
def test_a_long_context_begins_at_the_settings_tokens(tokens: int, expected: str) -> None:
    assert cohort(tokens=tokens) == expected


def test_tokens_that_were_not_counted_make_no_long_context() -> None:
    assert cohort(tokens=None) == "default"


def test_tools_make_tool_calling() -> None:
    assert cohort(tools=True) == "tool_calling"


def test_long_context_comes_before_tool_calling() -> None:
    assert cohort(tools=True, tokens=1000) == "long_context"


@pytest.mark.parametrize(("declared", "expected"), [("regulated", "regulated"), ("x", "other")])
def test_what_is_declared_comes_before_what_is_derived(declared: str, expected: str) -> None:
    assert cohort(declared, tools=True, tokens=1000) == expected


@pytest.mark.parametrize(
    ("declared", "expected"),
    [("planner", "planner"), ("elsewhere", "other"), ("", "other"), (None, "default")],
)
def test_a_route_is_declared_other_or_default(declared: str | None, expected: str) -> None:
    assert LABELS.route(declared) == expected


@given(
    st.none() | st.text(),
    st.booleans(),
    st.none() | st.integers(0, 10_000),
)
def test_nothing_that_a_client_sends_makes_a_new_label(
    declared: str | None, tools: bool, tokens: int | None
) -> None:
    assert cohort(declared, tools=tools, tokens=tokens) in LABELS.all_cohorts
    assert LABELS.route(declared) in LABELS.all_routes


def test_every_label_can_be_had_and_none_stands_there_twice() -> None:
    assert LABELS.all_cohorts == (
        "regulated",
        "multilingual",
        "long_context",
        "tool_calling",
        "default",
        "other",
    )
    assert LABELS.all_routes == ("planner", "final_answer", "default", "other")


def test_labels_are_what_the_settings_declare(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path,
        cohorts=("regulated", "multilingual"),
        routes=("planner", "final_answer"),
        rule_headers=("X-Tier",),
        long_context_tokens=1000,
    )
    assert Labels.of(settings) == LABELS
