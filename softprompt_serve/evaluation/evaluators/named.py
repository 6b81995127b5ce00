"""Evaluators by the names in which people ask for them, such as ``exact_match,f1:0.6``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NoReturn

from softprompt_serve.errors import BadRequest
from softprompt_serve.evaluation.evaluators.fi import Fi
from softprompt_serve.evaluation.evaluators.judge import Bench, Judge
from softprompt_serve.evaluation.evaluators.matching import (
    Contains,
    ExactMatch,
    JsonSchema,
    Regex,
    ToolChoice,
)
from softprompt_serve.evaluation.evaluators.overlap import RougeL, f1_of
from softprompt_serve.evaluation.evaluators.own import Own

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from softprompt_serve.evaluation.evaluators.verdict import Evaluator

KINDS: Final = (
    "exact_match",
    "contains",
    "regex:PATTERN",
    "json_schema:FILE",
    "tool_call",
    "f1[:THRESHOLD]",
    "rouge_l[:THRESHOLD]",
    "judge:NAME",
    "fi:NAME",
    "python:MODULE:FUNCTION",
)
_SPEC: Final = re.compile(
    r"(?:(?P<name>[a-z0-9][a-z0-9_.-]{0,62})=)?(?P<kind>[a-z0-9_]+)(?::(?P<rest>.*))?", re.DOTALL
)
_PLAIN: Final[Mapping[str, Callable[[str, str, tuple[str, ...]], Evaluator]]] = {
    "exact_match": ExactMatch,
    "contains": Contains,
    "tool_call": ToolChoice,
}
_GRADED: Final[Mapping[str, Callable[[str, float], Evaluator]]] = {
    "f1": f1_of,
    "rouge_l": RougeL.of,
}
_LONGEST_NAME: Final = 200
_THRESHOLD: Final = 0.5


@dataclass(frozen=True, slots=True)
class Options:
    """What evaluators need besides their names.

    Attributes:
        bench: who judges, or None.
        rubrics: a judge's name → the file with its rubric.
        threshold: from which score on a judge's verdict is passed.
    """

    bench: Bench | None = None
    rubrics: Mapping[str, Path] = field(default_factory=lambda: MappingProxyType({}))
    threshold: float = _THRESHOLD


def evaluators_of(given: Iterable[str], options: Options) -> tuple[Evaluator, ...]:
    """Evaluators for lists by commas; a pattern, which may hold commas, stands alone.

    Raises:
        BadRequest: ``invalid_evaluator``: none, two of one name, or as :func:`evaluator_of`.
    """
    made: dict[str, Evaluator] = {}
    for spec in _split(given):
        evaluator = evaluator_of(spec, options)
        if evaluator.name in made:
            msg = f"Two evaluators are called {evaluator.name}; name one with NAME=…"
            raise BadRequest(msg, code="invalid_evaluator")
        made[evaluator.name] = evaluator
    if not made:
        msg = f"Give at least one evaluator: {', '.join(KINDS)}."
        raise BadRequest(msg, code="invalid_evaluator")
    return tuple(made.values())


def evaluator_of(spec: str, options: Options) -> Evaluator:
    """One evaluator; ``NAME=`` before it gives it another name.

    Raises:
        BadRequest: ``invalid_evaluator``, ``fi_key_missing``.
    """
    parts = _SPEC.fullmatch(spec)
    if parts is None:
        _unknown(spec)
    kind, rest = parts["kind"], parts["rest"] or ""
    name = parts["name"] or _name(kind, rest)
    if len(name) > _LONGEST_NAME or not name.isprintable():
        msg = f"{name[:40]!r}… is no name for evidence; put a short NAME= before it."
        raise BadRequest(msg, code="invalid_evaluator")
    if kind in _GRADED:
        return _GRADED[kind](name, _threshold(spec, rest))
    if kind in _PLAIN and not rest:
        return _PLAIN[kind](name, "1", ("expected",))
    return _with_argument(spec, name, kind, rest, options) if rest else _unknown(spec)


def _with_argument(spec: str, name: str, kind: str, rest: str, options: Options) -> Evaluator:
    match kind:
        case "regex":
            return Regex.of(name, rest)
        case "json_schema":
            return JsonSchema.of(name, Path(rest))
        case "judge":
            return _judge(name, rest, options)
        case "fi":
            return Fi.of(name, rest)
        case "python":
            return Own.of(name, rest)
    return _unknown(spec)


def _judge(name: str, rubric: str, options: Options) -> Judge:
    if rubric not in options.rubrics:
        msg = f"judge:{rubric} needs a rubric: --rubric {rubric}=FILE."
        raise BadRequest(msg, code="invalid_evaluator")
    if options.bench is None:
        msg = f"judge:{rubric} needs somebody who judges: --judge-model, and --judge-url."
        raise BadRequest(msg, code="invalid_evaluator")
    path = options.rubrics[rubric]
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"The rubric {path} can't be read as UTF-8 text: {error}"
        raise BadRequest(msg, code="invalid_evaluator") from error
    return Judge.of(name, options.bench, text, options.threshold)


def _split(given: Iterable[str]) -> Iterable[str]:
    for value in given:
        if re.match(r"([\w.-]+=)?regex:", value):
            yield value
        else:
            yield from (part.strip() for part in value.split(",") if part.strip())


def _name(kind: str, rest: str) -> str:
    if kind in _GRADED or not rest:
        return kind
    return f"{kind}:{Path(rest).stem if kind == 'json_schema' else rest}"


def _threshold(spec: str, rest: str) -> float:
    try:
        value = float(rest or _THRESHOLD)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        msg = f"{spec}: the threshold must be a number from 0 to 1."
        raise BadRequest(msg, code="invalid_evaluator")
    return value


def _unknown(spec: str) -> NoReturn:
    msg = f"There is no evaluator {spec!r}; there are {', '.join(KINDS)}."
    raise BadRequest(msg, code="invalid_evaluator")
