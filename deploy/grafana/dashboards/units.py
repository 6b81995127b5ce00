"""Values as Grafana writes them, by unit."""

from __future__ import annotations

import math
from typing import Final

STEPS: Final = ((1e9, "B"), (1e6, "M"), (1e3, "K"))
BYTES: Final = ((2**30, " GiB"), (2**20, " MiB"), (2**10, " KiB"))
MINUTE: Final = 60.0
ALMOST: Final = 0.9995  # rounds to 1 s, not to 1000 ms


def written(value: float, unit: str) -> str:
    """A value in a few characters; nothing where there is none."""
    if math.isnan(value):
        return ""
    forms = {"percentunit": _percent, "s": _seconds, "reqps": _often, "bytes": _size}
    return (forms | {"currencyUSD": _dollars}).get(unit, _short)(value)


def _percent(value: float) -> str:
    return f"{_short(value * 100)}%"


def _often(value: float) -> str:
    return f"{_short(value)} req/s"


def _size(value: float) -> str:
    return _scaled(value, BYTES, " B")


def _dollars(value: float) -> str:
    if not value:
        return "$0"
    return f"${value:.2g}" if value < 1 else f"${value:.2f}"


def _short(value: float) -> str:
    return _scaled(value, STEPS, "")


def _scaled(value: float, steps: tuple[tuple[float, str], ...], plain: str) -> str:
    for size, name in steps:
        if abs(value) >= size:
            return f"{value / size:.3g}{name}"
    return f"{value:.3g}{plain}"


def _seconds(value: float) -> str:
    if value >= MINUTE:
        return f"{value / MINUTE:.3g} min"
    return f"{value:.3g} s" if value >= ALMOST else f"{value * 1000:.3g} ms"
