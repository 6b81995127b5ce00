"""Numbers and times of a report as text. Pure."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final

_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86_400.0
_THOUSAND: Final = 1000
MINUS: Final = "\N{MINUS SIGN}"
"""As wide as a plus, so that columns of signed numbers line up."""


def when(at: float) -> str:
    """A Unix time, in UTC, to the minute."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def stamp(at: str) -> str:
    """An RFC 3339 time as :func:`when` writes it; what is none stays as it is."""
    try:
        return when(datetime.fromisoformat(at).timestamp())
    except ValueError:
        return at


def age(seconds: float) -> str:
    """How long ago, in the largest unit that leaves a whole number."""
    if seconds < 0:
        return "in the future"
    for unit, name in ((_DAY, "day"), (_HOUR, "hour"), (_MINUTE, "minute")):
        if seconds >= unit:
            count = int(seconds // unit)
            return f"{count} {name}{'s'[: count != 1]}"
    return "less than a minute"


def level(value: float, *, share: bool) -> str:
    """A mean: as a percentage, or with three significant digits."""
    return signless(f"{value * 100:.1f} %" if share else f"{value:.3g}")


def change(value: float, *, share: bool) -> str:
    """A difference with its sign: in percentage points (without saying so), or as it is."""
    text = f"{value * 100:+.1f}" if share else f"{value:+.3g}"
    return signless(text)


def interval(low: float | None, high: float | None, *, share: bool) -> str:
    """The ends of an interval of means; nothing if there is none."""
    if low is None or high is None:
        return ""
    if share:
        return f"{low * 100:.1f} to {high * 100:.1f}"
    return signless(f"{low:.3g} to {high:.3g}")


def seconds(value: float) -> str:
    """A time: in milliseconds below a second."""
    return f"{value * 1000:.0f} ms" if value < 1.0 else f"{value:.3g} s"


def dollars(value: float) -> str:
    """What a thousand answers cost; one alone is a small fraction of a cent."""
    return f"${value * _THOUSAND:.3g}"


def chance(value: float) -> str:
    """A p-value."""
    return "< 0.0001" if value < 0.0001 else f"{value:.2g}"  # noqa: PLR2004 - four digits do


def plain(value: Any) -> str:
    """Any JSON value on one line, as a person would write it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return f"{value:.6g}" if isinstance(value, float) else str(value)
    if isinstance(value, dict):
        return ", ".join(f"{key}: {plain(part)}" for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(part) for part in value)
    return json.dumps(value)


def signless(text: str) -> str:
    """The same with real minus signs."""
    return text.replace("-", MINUS)
