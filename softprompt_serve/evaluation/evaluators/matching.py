"""Evaluators that compare texts: ``exact_match``, ``contains``, ``regex``, ``json_schema``, ``tool_call``."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from softprompt_serve.errors import BadRequest
from softprompt_serve.evaluation.dataset import canonical_json
from softprompt_serve.evaluation.evaluators.verdict import Named, NoVerdict, Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from softprompt_serve.evaluation.dataset import Item
    from softprompt_serve.evaluation.replies import Reply

_BEFORE: Final = " ;:!?\"'`*_()[]{}<>“”\u2018\u2019«»„。、"
"""What says nothing before an answer. A sign, a currency or the point of ``.5`` does."""

_AFTER: Final = _BEFORE + ".,"
"""And after one."""


def normalized(text: str) -> str:
    """A text as it is compared: NFKC, white space as one space, no punctuation around it, casefolded.

    What is nothing but punctuation stays as it is.
    """
    plain = " ".join(unicodedata.normalize("NFKC", text).split())
    return (plain.lstrip(_BEFORE).rstrip(_AFTER) or plain).casefold()


class ExactMatch(Named):
    """The normalised answer is one of the expected texts, or, for other JSON, equal to it as JSON."""

    async def score(self, item: Item, reply: Reply) -> Verdict:
        """1 if it is, else 0."""
        expected = item.expected
        if (texts := texts_of(expected)) is not None:
            return Verdict.of(right=normalized(reply.text) in {normalized(text) for text in texts})
        return Verdict.of(right=_same_json(reply.text, expected))


class Contains(Named):
    """One of the expected texts stands in the answer, both normalised, at the borders of words."""

    async def score(self, item: Item, reply: Reply) -> Verdict:
        """1 if it does, else 0."""
        texts = texts_of(item.expected)
        if texts is None:
            msg = "what is expected is no text"
            raise NoVerdict(msg)
        answer = normalized(reply.text)
        found = (rf"(?<!\w){re.escape(normalized(text))}(?!\w)" for text in texts)
        return Verdict.of(right=any(re.search(pattern, answer) for pattern in found))


@dataclass(frozen=True, slots=True)
class Regex(Named):
    """The pattern is found somewhere in the answer."""

    pattern: re.Pattern[str] = re.compile("")

    @classmethod
    def of(cls, name: str, pattern: str) -> Regex:
        """An evaluator of Python's ``re``.

        Raises:
            BadRequest: ``invalid_evaluator``.
        """
        try:
            return cls(name, f"1+{_short_hash(pattern)}", pattern=re.compile(pattern))
        except re.error as error:
            msg = f"{pattern!r} is no regular expression: {error}"
            raise BadRequest(msg, code="invalid_evaluator") from error

    async def score(self, item: Item, reply: Reply) -> Verdict:  # noqa: ARG002 - the protocol's
        """1 if it is, else 0."""
        return Verdict.of(right=self.pattern.search(reply.text) is not None)


@dataclass(frozen=True, slots=True)
class JsonSchema(Named):
    """The answer is JSON, and nothing but JSON, that the schema accepts."""

    validator: Any = None

    @classmethod
    def of(cls, name: str, path: Path) -> JsonSchema:
        """An evaluator of the schema in a file, of the draft that it names.

        Raises:
            BadRequest: ``invalid_evaluator``: no schema, or ``jsonschema`` is not installed.
        """
        try:
            jsonschema = importlib.import_module("jsonschema")
        except ImportError as error:
            msg = "json_schema needs the package jsonschema: pip install 'softprompt-serve[eval]'."
            raise BadRequest(msg, code="invalid_evaluator") from error
        try:
            schema = json.loads(path.read_text(encoding="utf-8"))
            validator = jsonschema.validators.validator_for(schema)
            validator.check_schema(schema)
        except (OSError, ValueError, jsonschema.SchemaError) as error:
            msg = f"{path} holds no JSON schema: {str(error).partition(chr(10))[0]}"
            raise BadRequest(msg, code="invalid_evaluator") from error
        version = f"1+{_short_hash(canonical_json(schema))}"
        return cls(name, version, validator=validator(schema))

    async def score(self, item: Item, reply: Reply) -> Verdict:  # noqa: ARG002 - the protocol's
        """1 if it is, else 0."""
        try:
            answer = json.loads(reply.text)
        except (ValueError, RecursionError) as error:
            return Verdict.of(right=False, note=f"no JSON: {error}")
        problem = next(iter(self.validator.iter_errors(answer)), None)
        return Verdict.of(right=problem is None, note="" if problem is None else problem.message)


class ToolChoice(Named):
    """The answer calls the expected tool, and no other.

    Expected is a tool's name, or ``{"name": …, "arguments": {…}}``; of the arguments, those that are
    given must be equal. ``{"name": null}`` expects that no tool is called.
    """

    async def score(self, item: Item, reply: Reply) -> Verdict:
        """1 if it does, else 0."""
        expected = item.expected
        wanted: Any = {"name": expected} if isinstance(expected, str) else expected
        if not isinstance(wanted, dict) or "name" not in wanted:
            msg = "what is expected names no tool"
            raise NoVerdict(msg)
        called = [call.name for call in reply.tool_calls]
        if called != ([] if wanted["name"] is None else [wanted["name"]]):
            return Verdict.of(right=False, note=f"called {', '.join(called) or 'nothing'}")
        given: dict[str, Any] = wanted.get("arguments") or {}
        made = reply.tool_calls[0].parsed() if called else {}
        wrong = [name for name, value in given.items() if not _equal(_member(made, name), value)]
        return Verdict.of(right=not wrong, note=f"wrong {', '.join(wrong)}" if wrong else "")


def texts_of(expected: Any) -> list[str] | None:
    """The texts of which one is right; None if what is expected is no text."""
    if isinstance(expected, str):
        return [expected]
    if isinstance(expected, list) and expected and all(isinstance(e, str) for e in expected):
        return list(expected)
    return None


def _same_json(text: str, expected: Any) -> bool:
    for candidate in (text, normalized(text)):  # `42.` is 42
        try:
            if _equal(json.loads(candidate), expected):
                return True
        except (ValueError, RecursionError):
            continue
    return False


def _equal(one: Any, other: Any) -> bool:
    """Equal as JSON: 1 and 1.0 are, 1 and true are not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)


def _member(data: Any, name: str) -> Any:
    return data.get(name) if isinstance(data, dict) else None


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
