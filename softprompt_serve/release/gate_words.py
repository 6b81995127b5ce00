"""What gates say of comparisons, in words and in numbers. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from softprompt_serve.release.paired import EXACT, POWER, UNPAIRED, items_needed

if TYPE_CHECKING:
    from softprompt_serve.release.paired import Comparison
    from softprompt_serve.release.verdict import Number

_NEGLIGIBLE: Final = 0.0001
_TRIES: Final = round(POWER * 5)


def figures(found: Comparison) -> dict[str, Number]:
    """A comparison for programs. Unpaired means have no ``better`` and ``worse``."""
    numbers: dict[str, Number] = {
        "items": found.items,
        "candidate_mean": found.candidate_mean,
        "against_mean": found.against_mean,
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "confidence": found.confidence,
        "margin": found.margin,
        "p_value": found.p_value,
        "alpha": found.alpha,
        "method": found.method,
    }
    if found.method != UNPAIRED:
        numbers |= {"better": found.better, "worse": found.worse}
    if not found.exceeds and (needed := items_needed(found)) is not None:
        numbers["items_needed"] = needed
    return numbers


def sentence(found: Comparison, candidate: str, against: str) -> str:
    """A comparison for people."""
    p_value = "< 0.0001" if found.p_value < _NEGLIGIBLE else f"= {found.p_value:.2g}"
    return (
        f"{candidate} {found.candidate_mean:.3f} against {against} {found.against_mean:.3f} on "
        f"{found.items:,} items: {found.difference:+.3f} ({interval(found)}), p {p_value}"
    )


def interval(found: Comparison) -> str:
    """The interval, with its confidence."""
    return f"{percent(found.confidence)} interval {found.low:+.3f} to {found.high:+.3f}"


def percent(part: float) -> str:
    """A share in per cent, without a tail of zeros."""
    return f"{part * 100:.4g} %"


def shortfall(found: Comparison, candidate: str, of_whom: str = "") -> str:
    """What would satisfy a comparison that is not above its margin."""
    wanted = f"The difference must be above {found.margin:+.3f}"
    needed = items_needed(found)
    if needed is None:
        return (
            f"{wanted} and is {found.difference:+.3f}: more items would not show it, {candidate} "
            "has to become better."
        )
    more = f"About {needed:,} items{of_whom} would show it, {_TRIES} times in 5, if the difference stays."
    if found.method == EXACT and found.low > found.margin:
        return (
            f"{wanted} by the exact test, whose p-value is {found.p_value:.2g} and must be at most "
            f"{found.alpha:.2g}. {more}"
        )
    return f"{wanted}; its {interval(found)}. {more}"


def more_items(missing: int, where: str) -> str:
    """What would satisfy a comparison of too few items."""
    return f"Needs {missing:,} more item{'s' if missing > 1 else ''} {where}."
