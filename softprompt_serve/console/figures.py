"""Numbers, times and shares as people read them, and bars as SVG can draw them. Pure."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NOTHING: Final = "–"  # noqa: RUF001 - a dash for what is not known

_SHORT: Final = 12
_LITTLE, _MUCH = 0.01, 10_000
_KIBI: Final = 1024
_BYTES: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_MINUTE: Final = 60
_DURATIONS: Final = (("d", 86_400), ("h", 3600), ("min", _MINUTE), ("s", 1))


def number(value: float | None) -> str:
    """1234567 → ``1,234,567``; a fraction keeps three digits."""
    if value is None:
        return NOTHING
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def percent(share: float | None) -> str:
    """0.1234 → ``12.3 %``."""
    return NOTHING if share is None else f"{share * 100:.3g} %"


def seconds(value: float | None) -> str:
    """0.0312 → ``31.2 ms``; 2.5 → ``2.5 s``; 4000 → ``1 h 6 min``; 900 → ``15 min``."""
    if value is None:
        return NOTHING
    if value < 1:
        return f"{value * 1000:.3g} ms" if value else "0 s"
    if value < _MINUTE:
        return f"{value:.3g} s"
    whole = int(value)
    for (unit, size), (smaller, part) in pairwise(_DURATIONS):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def signed_seconds(value: float | None) -> str:
    """-0.03 → 30 ms with a minus sign; 0.03 with a plus."""
    return NOTHING if value is None else f"{_sign(value)}{seconds(abs(value))}"


def signed(value: float | None) -> str:
    """3.2 → ``+3.2``."""
    return NOTHING if value is None else f"{_sign(value)}{number(abs(value))}"


def _sign(value: float) -> str:
    return "−" if value < 0 else "+" if value else ""  # noqa: RUF001 - a minus sign


def usd(value: float | None) -> str:
    """0.000123 → ``$0.000123``."""
    if value is None:
        return NOTHING
    return (
        f"${value:.2f}" if value >= 1 else f"${float(f'{value:.3g}'):.10f}".rstrip("0").rstrip(".")
    )


def in_unit(value: float | None, unit: str) -> str:
    """A gate's figure; a share in per cent."""
    if value is None:
        return "unbounded"
    shown: dict[str, Callable[[float], str]] = {"share": percent, "s": seconds, "USD": usd}
    return shown[unit](value) if unit in shown else f"{value:.3g} {unit}"


def evidence(value: float) -> str:
    """Where it is next to none or beyond doubt, that is all it says."""
    if value < _LITTLE:
        return f"< {_LITTLE}"
    return f"{value:.3g}" if value < _MUCH else f"> {_MUCH:,}"


def against(value: float, needed: float) -> float:
    """How far evidence has come, 0 to 1: on a scale of orders of magnitude, from none (1)."""
    if value <= 1 or needed <= 1:
        return 0.0
    return min(1.0, math.log(value) / math.log(needed))


def size(count: float | None) -> str:
    """1536 → ``1.5 KiB``."""
    if count is None:
        return NOTHING
    power = 0
    while count >= _KIBI and power < len(_BYTES) - 1:
        count /= _KIBI
        power += 1
    return f"{count:.0f} B" if not power else f"{count:.3g} {_BYTES[power]}"


def short(digest: str) -> str:
    """The beginning of a digest."""
    return digest[:_SHORT]


def moment(at: str | float | None) -> str:
    """RFC 3339 or Unix time → ``2026-01-31 13:00:05 UTC``; what is no time stays as it is."""
    if at is None:
        return NOTHING
    try:
        when = (
            datetime.fromisoformat(at) if isinstance(at, str) else datetime.fromtimestamp(at, UTC)
        )
    except ValueError:
        return str(at)
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def plain(value: Any) -> str:
    """A text as it is, a number as people write it, anything else as JSON."""
    if value is None:
        return NOTHING
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


class Segment(NamedTuple):
    """A part of a bar.

    Attributes:
        name: what it stands for.
        value: how much of it there is.
        share: of the whole, 0 to 1.
        start: where it begins, per cent.
        width: per cent.
        tone: which colour it has, from 0.
    """

    name: str
    value: float
    share: float
    start: float
    width: float
    tone: int


def segments(
    parts: Mapping[str, float], *, tones: Mapping[str, int], whole: float | None = None
) -> list[Segment]:
    """A bar's parts side by side, of a whole that may be more than their sum."""
    total = whole or sum(parts.values())
    found, start = [], 0.0
    for name, value in parts.items():
        share = value / total if total else 0.0
        width = round(share * 100, 3)
        found.append(Segment(name, value, share, round(start, 3), width, tones.get(name, 0)))
        start += width
    return found


TONES: Final = 6


def tones_of(versions: list[str], production: str | None, candidate: str | None) -> dict[str, int]:
    """A colour for each version: production 0, the candidate 1, then in order."""
    rest = [version for version in versions if version not in {production, candidate}]
    found = {version: 2 + index % (TONES - 2) for index, version in enumerate(rest)}
    if candidate is not None:
        found[candidate] = 1
    if production is not None:
        found[production] = 0
    return found


FILTERS: Final[Mapping[str, Callable[..., str | float]]] = {
    "number": number,
    "percent": percent,
    "seconds": seconds,
    "usd": usd,
    "in_unit": in_unit,
    "evidence": evidence,
    "against": against,
    "signed": signed,
    "signed_seconds": signed_seconds,
    "size": size,
    "short": short,
    "moment": moment,
    "plain": plain,
}
