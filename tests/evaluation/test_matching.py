from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from evaluation.conftest import item, reply

from softprompt_serve.demo import tickets
from softprompt_serve.demo.scoring import is_right
from softprompt_serve.errors import BadRequest
from softprompt_serve.evaluation.evaluators import (
    Evaluator,
    NoVerdict,
    Options,
    Verdict,
    evaluator_of,
)
from softprompt_serve.evaluation.evaluators.matching import normalized
from softprompt_serve.evaluation.replies import ToolCall


def found(spec: str, text: str, expected: Any = None, *calls: ToolCall) -> Verdict:
    evaluator = evaluator_of(spec, Options())
    return asyncio.run(evaluator.score(item(expected=expected), reply(text, tool_calls=calls)))


@pytest.mark.parametrize(
    ("text", "expected", "right"),
    [
        ("billing", "billing", True),
        (" Billing.\n", "billing", True),
        ('"BILLING"', "billing", True),
        ("“billing”", "billing", True),
        ("**billing**", "billing", True),
        ("two  words", "two words", True),
        ("STRASSE", "straße", True),
        ("ﬁx", "fix", True),
        ("billing, I think", "billing", False),
        ("", "billing", False),
        ("", "?", False),
        ("?", "?", True),
        ("b", ["a", "b"], True),
        ("c", ["a", "b"], False),
        ("-5", "5", False),
        (".5", "5", False),
        ("$5", "5", False),
        ("5%", "5", False),
        ("42.", 42, True),
        ("42.0", 42, True),
        ("41", 42, False),
        ("true", True, True),
        ("1", True, False),
        ('{"b": [2], "a": 1}', {"a": 1, "b": [2]}, True),
        ('{"a": 1}', {"a": True}, False),
        ('{"a": 1}', {"a": 1, "b": 2}, False),
        ("[1, 2]", [1, 2], True),
        ("no json", {"a": 1}, False),
    ],
)
def test_exact_match(text: str, expected: Any, right: bool) -> None:
    assert found("exact_match", text, expected) == (float(right), right, "")


@pytest.mark.parametrize("text", ["{}", "{}.", " {}\n", "{}!", '"{}"', "*{}*", "The {}", "{} 1"])
def test_exact_match_agrees_with_the_demos_own_scoring(text: str) -> None:
    for label in tickets.LABELS:
        for answer in (text.format(label), text.format(label.upper())):
            assert found("exact_match", answer, label).passed is is_right(answer, label)


def test_normalizing_twice_changes_nothing_more() -> None:
    once = normalized("  «The — Answer…» ")
    assert normalized(once) == once


@pytest.mark.parametrize(
    ("text", "expected", "right"),
    [
        ("It is BILLING, I think.", "billing", True),
        ("rebilling", "billing", False),
        ("a or b", ["x", "b"], True),
        ("costs 3.50 EUR", "3.50", True),
    ],
)
def test_contains(text: str, expected: Any, right: bool) -> None:
    assert found("contains", text, expected).passed is right


def test_contains_of_what_is_no_text_is_no_verdict() -> None:
    with pytest.raises(NoVerdict):
        found("contains", "x", {"a": 1})


def test_regex_is_searched_for() -> None:
    assert found(r"regex:\d{3,5}", "order 123").passed
    assert not found(r"regex:^\d+$", "order 123").passed


def schema(folder: Path, **parts: Any) -> Path:
    path = folder / "ticket.json"
    path.write_text(json.dumps({"type": "object", "required": ["id"], **parts}))
    return path


def test_json_schema_accepts_json_that_fits_and_nothing_else(tmp_path: Path) -> None:
    spec = f"json_schema:{schema(tmp_path)}"
    assert found(spec, ' {"id": 1}\n').passed
    assert found(spec, "{}").note == "'id' is a required property"
    assert found(spec, '```json\n{"id": 1}\n```').note.startswith("no JSON")


CALL = ToolCall("find", '{"order": 12, "by": "id"}')


@pytest.mark.parametrize(
    ("calls", "expected", "right"),
    [
        ([CALL], "find", True),
        ([CALL], "cancel", False),
        ([], "find", False),
        ([CALL, CALL], "find", False),
        ([CALL], {"name": "find", "arguments": {"order": 12}}, True),
        ([CALL], {"name": "find", "arguments": {"order": "12"}}, False),
        ([CALL], {"name": "find", "arguments": {"order": None}}, False),
        ([ToolCall("find", "{")], {"name": "find", "arguments": {"order": 12}}, False),
        ([], {"name": None}, True),
        ([CALL], {"name": None}, False),
    ],
)
def test_tool_call(calls: list[ToolCall], expected: Any, right: bool) -> None:
    assert found("tool_call", "", expected, *calls).passed is right


def versions(*evaluators: Evaluator) -> int:
    return len({evaluator.version for evaluator in evaluators})


def test_a_version_changes_with_what_is_looked_for(tmp_path: Path) -> None:
    assert versions(*(evaluator_of(f"regex:{p}", Options()) for p in ("a", "b"))) == 2
    one = evaluator_of(f"json_schema:{schema(tmp_path)}", Options())
    same = evaluator_of(f"json_schema:{schema(tmp_path)}", Options())
    other = evaluator_of(f"json_schema:{schema(tmp_path, required=[])}", Options())
    assert one.version == same.version != other.version


@pytest.mark.parametrize("content", ["{", '{"type": "thing"}'])
def test_a_file_that_is_no_schema_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(BadRequest, match="no JSON schema"):
        evaluator_of(f"json_schema:{path}", Options())
