from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from evaluation.conftest import item, reply

from softprompt_serve.errors import BadRequest
from softprompt_serve.evaluation.evaluators import NoVerdict, Options, Verdict, evaluator_of

SOURCE = """
def returns(item, reply):
    return {returned}

async def later(item, reply):
    return item.expected == reply.text

def breaks(item, reply):
    raise KeyError("oops")

def marked(item, reply):
    return True

marked.version = "2026-11"
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(returned: str = "True") -> None:
        sys.modules.pop("team_checks", None)
        (tmp_path / "team_checks.py").write_text(SOURCE.format(returned=returned))

    write()
    yield write
    sys.modules.pop("team_checks", None)


def found(function: str, text: str = "yes") -> Verdict:
    evaluator = evaluator_of(f"python:team_checks:{function}", Options())
    return asyncio.run(evaluator.score(item(expected="yes"), reply(text)))


@pytest.mark.parametrize(
    ("returned", "verdict"),
    [
        ("True", (1.0, True, "")),
        ("False", (0.0, False, "")),
        ("0.5", (0.5, True, "")),
        ("0.49", (0.49, False, "")),
        ("(0.2, True)", (0.2, True, "")),
        ("(1, False, 'why')", (1.0, False, "why")),
    ],
)
def test_a_function_may_return_what_is_handy(module: Any, returned: str, verdict: Any) -> None:
    module(returned)
    assert found("returns") == verdict


def test_a_function_may_be_async(module: Any) -> None:
    assert found("later").passed
    assert not found("later", "no").passed


def test_none_is_no_verdict(module: Any) -> None:
    module("None")
    with pytest.raises(NoVerdict):
        found("returns")


def test_anything_else_is_an_error_with_what_was_returned(module: Any) -> None:
    module("'good'")
    with pytest.raises(BadRequest, match="'good'"):
        found("returns")


def test_a_function_that_raises_stops_the_run(module: Any) -> None:
    with pytest.raises(BadRequest, match="KeyError: 'oops'") as refused:
        found("breaks")
    assert refused.value.code == "evaluator_failed"


@pytest.mark.parametrize(
    "place", ["team_checks:nothing", "nowhere:f", "team_checks", "team_checks:SOURCE"]
)
def test_what_cant_be_imported_is_refused(module: Any, place: str) -> None:
    with pytest.raises(BadRequest) as refused:
        evaluator_of(f"python:{place}", Options())
    assert refused.value.code == "invalid_evaluator"


def test_a_version_changes_with_the_source_unless_the_function_has_one(module: Any) -> None:
    before = evaluator_of("python:team_checks:returns", Options()).version
    module("False")
    assert evaluator_of("python:team_checks:returns", Options()).version != before
    assert evaluator_of("python:team_checks:marked", Options()).version == "2026-11"
