"""What a person writes: documents in JSON or YAML, weights and headers as pairs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softprompt_serve.cli.upload import read_text
from softprompt_serve.errors import BadRequest
from softprompt_serve.release.yaml_text import from_yaml

if TYPE_CHECKING:
    from collections.abc import Iterable

STDIN = "-"
_YAML = frozenset({".yaml", ".yml"})


def read_document(
    name: str, *, expected: str = 'a rollout such as {"arms": [...]}'
) -> dict[str, Any]:
    """A JSON object from a file, or from standard input for ``-``; YAML where PyYAML is installed.

    ``expected`` says what it should be, in the words of a message.

    Raises:
        BadRequest: ``invalid_document``: not to be read, neither format, or no object.
    """
    text = sys.stdin.read() if name == STDIN else read_text(Path(name))
    given = "standard input" if name == STDIN else name
    yaml = Path(name).suffix in _YAML or not text.lstrip().startswith(("{", "["))
    try:
        data = from_yaml(text) if yaml else json.loads(text)
        json.dumps(data, allow_nan=False)  # a YAML date or NaN could not be sent
    except (TypeError, ValueError) as error:
        msg = f"{given} can't be read as {'YAML' if yaml else 'JSON'}: {error}"
        raise BadRequest(msg, code="invalid_document") from error
    if not isinstance(data, dict):
        msg = f"{given} holds no object; expected {expected}."
        raise BadRequest(msg, code="invalid_document")
    return data


def weights_of(pairs: Iterable[str]) -> dict[str, int]:
    """``v2=90 v3=10`` → ``{"v2": 90, "v3": 10}``.

    Raises:
        BadRequest: ``invalid_weights``.
    """
    weights: dict[str, int] = {}
    for name, weight in pairs_of(pairs, "invalid_weights", "VERSION=WEIGHT, such as v2=90"):
        if not (weight.isascii() and weight.isdigit()):
            msg = f"{name}={weight}: the weight is no whole number; weights are relative shares."
            raise BadRequest(msg, code="invalid_weights", param=name)
        if name in weights:
            msg = f"{name} stands there twice."
            raise BadRequest(msg, code="invalid_weights", param=name)
        weights[name] = int(weight)
    return weights


def headers_of(pairs: Iterable[str]) -> dict[str, str]:
    """``x-tier=gold`` → ``{"x-tier": "gold"}``.

    Raises:
        BadRequest: ``invalid_header``.
    """
    return dict(pairs_of(pairs, "invalid_header", "NAME=VALUE, such as x-tier=gold"))


def given(**parts: Any) -> dict[str, Any] | None:
    """What was given, or None, which is no body."""
    return {name: part for name, part in parts.items() if part is not None} or None


def pairs_of(pairs: Iterable[str], code: str, expected: str) -> Iterable[tuple[str, str]]:
    """What stands before and after each ``=``.

    Raises:
        BadRequest: with ``code``, naming what was ``expected``.
    """
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            msg = f"{pair!r} is no pair; expected {expected}."
            raise BadRequest(msg, code=code)
        yield name, value
