"""What answers took, as far as runs say: times, tokens and money by version. Pure."""

from __future__ import annotations

import math
from statistics import fmean
from typing import TYPE_CHECKING, Final

from softprompt_serve.release.report_data import Toll

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from softprompt_serve.release.evidence import Answer, Run

QUANTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def tolls(run: Run, versions: Sequence[str], roles: Mapping[str, str]) -> tuple[Toll, ...]:
    """One for each of ``versions`` that ``run`` asked; ratios are to the baseline's.

    Times of one run alone: another was made under another load.
    """
    found = {name: [a for a in run.answers if a.version == name] for name in versions}
    baseline = next((name for name in versions if roles.get(name) == "baseline"), None)
    unit = _mean(_given(found[baseline], "cost_usd")) if baseline is not None else None
    return tuple(
        _toll(name, roles.get(name, ""), answers, unit)
        for name, answers in found.items()
        if answers
    )


def _toll(name: str, role: str, answers: Sequence[Answer], unit: float | None) -> Toll:
    had = [answer for answer in answers if answer.error is None]
    whole = sorted(_given(had, "e2e_seconds"))
    cost = _mean(_given(had, "cost_usd"))
    return Toll(
        version=name,
        role=role,
        answers=len(had),
        errors=len(answers) - len(had),
        ttft=_quantiles(sorted(_given(had, "ttft_seconds"))),
        e2e=_quantiles(whole),
        visible_tokens=_mean(_given(had, "visible_tokens")),
        virtual_tokens=_mean(_given(had, "virtual_tokens")),
        output_tokens=_mean(_given(had, "output_tokens")),
        cost_usd=cost,
        cost_ratio=cost / unit if cost is not None and unit else None,
        seconds=tuple(whole),
    )


def _given(answers: Iterable[Answer], field: str) -> list[float]:
    return [value for answer in answers if (value := getattr(answer, field)) is not None]


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _quantiles(ranked: Sequence[float]) -> dict[str, float]:
    """The smallest value that a share of at least q does not exceed; {} of no values."""
    if not ranked:
        return {}
    return {name: ranked[math.ceil(q * len(ranked)) - 1] for name, q in QUANTILES.items()}
