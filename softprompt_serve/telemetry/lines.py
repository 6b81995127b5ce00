"""A log message that is made of fields: words for people, and values for machines."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Field = str | int | float | tuple[str, ...] | None

_PLAIN: Final = re.compile(
    r"[!#-<>-\[\]-~]+"
)  # printable ASCII but blank, quote, equals, backslash
_DIGITS: Final = 6  # of seconds


@dataclass(frozen=True)
class Line:
    """What is logged in the place of a text. Its text is ``said key=value …``.

    Attributes:
        said: what happened, in a few words that are always the same.
        fields: what there is to know; those that are None are left out.
    """

    said: str
    fields: Mapping[str, Field]

    def __str__(self) -> str:
        """One line of text, whatever the values hold."""
        return self._text

    @cached_property
    def _text(self) -> str:  # logging asks for it several times on the way
        pairs = (f"{name}={_text(value)}" for name, value in self.known().items())
        return " ".join([self.said, *pairs])

    def known(self) -> dict[str, Field]:
        """The fields that have a value, in order; a float that JSON can't write has none."""
        return {name: value for name, value in self.fields.items() if _has_value(value)}

    def mapped(self, change: Callable[[str], str]) -> Line:
        """The same with every text changed."""
        return Line(
            self.said, {name: _mapped(value, change) for name, value in self.fields.items()}
        )


def seconds(value: float | None) -> float | None:
    """A duration to the microsecond."""
    return None if value is None else round(value, _DIGITS)


def _has_value(value: Field) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


def _mapped(value: Field, change: Callable[[str], str]) -> Field:
    if isinstance(value, tuple):
        return tuple(change(part) for part in value)
    return change(value) if isinstance(value, str) else value


def _text(value: Field) -> str:
    text = ",".join(value) if isinstance(value, tuple) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
