"""A change is told of once, however it ends."""

from __future__ import annotations

import pytest

from softprompt_serve.errors import Conflict
from softprompt_serve.telemetry.events import Operation
from softprompt_serve.telemetry.operations import PARENT, operation


def test_what_was_done_is_told_with_what_was_added() -> None:
    told: list[Operation] = []
    with operation(told.append, "alias", "support", "production", "ops") as attributes:
        assert not told
        attributes["version"] = "v2"
    (done,) = told
    assert (done.name, done.prompt, done.subject, done.actor) == (
        "alias",
        "support",
        "production",
        "ops",
    )
    assert done.error is None
    assert done.parent is None
    assert dict(done.attributes) == {"version": "v2"}


@pytest.mark.parametrize(
    ("failure", "error"),
    [(Conflict("No.", code="version_in_use"), "version_in_use"), (KeyError("x"), "KeyError")],
)
def test_what_failed_is_told_and_fails_all_the_same(failure: Exception, error: str) -> None:
    told: list[Operation] = []
    with (
        pytest.raises(type(failure)),
        operation(told.append, "promote", "support", "v2", None),
    ):
        raise failure
    assert [done.error for done in told] == [error]


def test_the_caller_s_place_in_a_trace_goes_along() -> None:
    told: list[Operation] = []
    token = PARENT.set("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    try:
        with operation(told.append, "pause", "support", "", None):
            pass
    finally:
        PARENT.reset(token)
    assert told[0].parent == "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
