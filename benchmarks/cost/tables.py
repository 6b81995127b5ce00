"""Markdown of a sheet: what was measured, and ratios within a round with their spread. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from side_by_side import interval, spread

from cost.figures import rates, summary, waits, work

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cost.figures import Summary, Turn
    from cost.sheets import Case, Sheet

HEAD = (
    "| | variant | tokens/s | TTFT p50, p99 (ms) | between tokens p50, p99 (ms) "
    "| CPU (ms) | request, answer (kB) | tokens/s ÷ {first} | TTFT ÷ {first} "
    "| CPU ÷ {first} |"
)
RULE = "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"

MANY = 8
"""From so many rounds on, the mean of ratios has an interval worth saying."""


def table(sheet: Sheet, found: Mapping[Case, Mapping[str, Sequence[Turn]]]) -> str:
    """A row for every case and variant."""
    first = sheet.variants[0]
    lines = [HEAD.format(first=first), RULE]
    for case, turns in found.items():
        label = sheet.label(case)
        for variant in sheet.variants:
            known = summary(turns[variant])
            lines.append(
                f"| {label} | {variant} | {known.rate:.1f} | {_milliseconds(known.firsts)} "
                f"| {_milliseconds(known.gaps)} | {1000 * known.processor:.0f} | {_bytes(known)} "
                f"| {spread(rates(turns[variant], turns[first]))} "
                f"| {spread(waits(turns[variant], turns[first]))} "
                f"| {spread(work(turns[variant], turns[first]))} |"
            )
            label = ""
    return "\n".join(lines)


def against(
    sheet: Sheet, found: Mapping[Case, Mapping[str, Sequence[Turn]]], variant: str
) -> list[str]:
    """A variant divided by every other but the first, which the table has."""
    return [
        f"- {_before(sheet.label(case))}{variant} ÷ {other}: tokens/s "
        f"{spread(rates(turns[variant], turns[other]))}, TTFT "
        f"{spread(waits(turns[variant], turns[other]))}, CPU "
        f"{spread(work(turns[variant], turns[other]))}."
        for case, turns in found.items()
        for other in sheet.variants[1:]
        if other != variant and variant in turns
    ]


def means(sheet: Sheet, found: Mapping[Case, Mapping[str, Sequence[Turn]]]) -> list[str]:
    """Where rounds are many: each variant divided by the first, with the interval of the mean."""
    first = sheet.variants[0]
    return [
        f"- {_before(sheet.label(case))}{variant} ÷ {first}, mean of {case.rounds} rounds with its 95 % interval: "
        f"tokens/s {interval(rates(turns[variant], turns[first]))}, TTFT "
        f"{interval(waits(turns[variant], turns[first]))}, CPU "
        f"{interval(work(turns[variant], turns[first]))}."
        for case, turns in found.items()
        if case.rounds >= MANY
        for variant in sheet.variants[1:]
    ]


def setup(sheet: Sheet, dtype: str, hard: int) -> str:
    """A sentence that says what was asked."""
    cases = sheet.cases()
    parts = [
        f"{_all(case.rows for case in cases)} virtual",
        f"{_all(case.visible for case in cases)} visible tokens",
        f"{sheet.output} generated",
        f"{_all(case.concurrency for case in cases)} at once",
        f"{_all(case.rounds for case in cases)} rounds",
        dtype,
    ]
    if any("hard" in variant for variant in sheet.variants):
        parts.append(f"a hard prompt of {hard} tokens")
    return f"{', '.join(parts)}."


def _before(label: str) -> str:
    return f"{label}: " if label else ""


def _all(values: object) -> str:
    return "/".join(f"{value:,}" for value in dict.fromkeys(values))  # type: ignore[call-overload]


def _milliseconds(seconds: tuple[float, float]) -> str:
    return ", ".join(f"{1000 * each:.1f}" for each in seconds)


def _bytes(known: Summary) -> str:
    """Nothing travels in process."""
    if not known.sent:
        return "in process"
    return f"{known.sent / 1000:,.1f}, {known.received / 1000:,.1f}"
