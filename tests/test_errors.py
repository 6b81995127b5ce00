"""Errors quote what was sent, which may be of any length."""

from __future__ import annotations

import json

import pytest

from softprompt_serve.errors import MAX_CHARS, BadRequest, Invalid
from softprompt_serve.release.manifest import MANIFEST, parse_manifest
from softprompt_serve.release.members import join, split


@pytest.mark.parametrize("length", [1, MAX_CHARS - 1, MAX_CHARS])
def test_what_is_short_is_told_as_it_is(length: int) -> None:
    error = Invalid("m" * length, param="p" * length)
    assert (error.message, error.param) == ("m" * length, "p" * length)
    assert str(error) == error.message


@pytest.mark.parametrize("length", [MAX_CHARS, 2 * MAX_CHARS, 2**20])
def test_of_what_is_long_the_beginning_and_the_end_are_told(length: int) -> None:
    error = Invalid(f"Expected {'m' * length} or else.", param=f"arms.{'p' * length}.weight")
    assert error.message.startswith("Expected mmm")
    assert error.message.endswith("mmm or else.")
    assert "m…m" in error.message
    assert len(error.message) == MAX_CHARS
    assert str(error) == error.message
    assert error.body()["error"]["param"].endswith("ppp.weight")
    assert len(error.body()["error"]["param"]) == MAX_CHARS


def test_a_bundle_quotes_no_more_than_that() -> None:
    long = "x" * 60_000
    with pytest.raises(BadRequest) as refused:
        parse_manifest(json.dumps({"format": long}).encode())
    assert len(refused.value.message) == MAX_CHARS
    with pytest.raises(BadRequest) as refused:
        split(join({MANIFEST: b"{}", f"../{long}": b""}))
    assert len(refused.value.message) == MAX_CHARS
