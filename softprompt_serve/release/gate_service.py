"""Gates on what answers take and cost, from the answers of evaluations. Pure.

They are estimates held against ceilings, without a test: an evaluation's latency depends on how
many requests it had under way, so candidate and baseline are compared within one run.
"""

from __future__ import annotations

import math
from statistics import fmean
from typing import TYPE_CHECKING, Final, NamedTuple

from softprompt_serve.release.case import answers_of, called
from softprompt_serve.release.gate_words import more_items
from softprompt_serve.release.policy import BASELINE
from softprompt_serve.release.verdict import Gate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from softprompt_serve.release.case import Case
    from softprompt_serve.release.evidence import Run
    from softprompt_serve.release.verdict import Number, Subject

QUANTILE: Final = 0.99


class _Ceiling(NamedTuple):
    """A gate before it is looked at; ``ratio``: the limit is a multiple of the baseline's."""

    name: str
    unit: str
    limit: float
    ratio: bool


class _Measured(NamedTuple):
    """One version's figure in one run; ``value`` None is unknown, infinite is no answer."""

    name: str
    value: float | None
    items: int
    errors: int

    def said(self, unit: str) -> str:
        """For people."""
        failed = f", {self.errors} failed" if self.errors else ""
        value = "unknown" if self.value is None else f"{self.value:.4g} {unit}"
        if self.value == math.inf:
            value = "no answer"
        return f"{self.name} {value} ({self.items} items{failed})"


def service_gates(case: Case) -> Iterator[Gate]:
    """A gate for each ceiling on latency and cost that the policy has."""
    if (latency := case.policy.latency) is not None:
        yield from _both(case, "latency p99", "s", latency.p99_seconds, latency.max_ratio)
    if (cost := case.policy.cost) is not None:
        yield from _both(case, "cost mean", "USD", cost.mean_usd, cost.max_ratio)


def p99(seconds: Sequence[float]) -> float:
    """The 99th percentile as an order statistic: the smallest value that 99 % don't exceed.

    Of fewer than 100 values it is the largest.
    """
    return sorted(seconds)[math.ceil(QUANTILE * len(seconds)) - 1]


def _both(
    case: Case, name: str, unit: str, most: float | None, ratio: float | None
) -> Iterator[Gate]:
    if most is not None:
        yield _gate(case, _Ceiling(name, unit, most, ratio=False))
    if ratio is not None:
        yield _gate(case, _Ceiling(f"{name} ratio", unit, ratio, ratio=True))


def _gate(case: Case, ceiling: _Ceiling) -> Gate:
    least, baseline = case.policy.min_items, case.baseline
    whose = f" times {case.policy.baseline}'s" if ceiling.ratio else f" {ceiling.unit}"
    wanted = f"at most {ceiling.limit:.4g}{whose}, on at least {least} items"
    if ceiling.ratio and baseline is None:
        return Gate.of(
            ceiling.name,
            "there is no baseline to compare with",
            wanted,
            case.bring(BASELINE),
        )
    subjects = [case.candidate, baseline] if ceiling.ratio and baseline else [case.candidate]
    run = _newest(case, subjects)
    if run is None:
        return Gate.of(ceiling.name, "no run that counts has answers", wanted, _again(case))
    measured = [_measure(ceiling, run, subject.name) for subject in subjects]
    hint = _hint(case, ceiling, run, measured)
    said = " against ".join(one.said(ceiling.unit) for one in measured)
    return Gate.of(
        ceiling.name,
        f"{said} in {called(run)}",
        wanted,
        hint,
        _numbers(ceiling, run, measured),
    )


def _newest(case: Case, subjects: Sequence[Subject]) -> Run | None:
    """The newest run that counts and has answers of all, on a data set that must be won if any."""
    datasets = {win.dataset for win in case.policy.win}
    for run in case.runs:
        if datasets and run.dataset not in datasets:
            continue
        if case.objection(run, *subjects) is None and all(
            answers_of(run, subject.name) for subject in subjects
        ):
            return run
    return None


def _measure(ceiling: _Ceiling, run: Run, name: str) -> _Measured:
    answers = answers_of(run, name)
    given = [answer for answer in answers if answer.error is None]
    errors = len(answers) - len(given)
    slow = ceiling.unit == "s"
    found = [answer.e2e_seconds if slow else answer.cost_usd for answer in given]
    known = [value for value in found if value is not None]
    value: float | None = None
    if given and len(known) == len(given):
        # Whoever waits for an answer that never comes waits longest; what it costs nobody knows.
        value = p99([*known, *[math.inf] * errors]) if slow else fmean(known)
    elif not given:
        value = math.inf
    return _Measured(name, value, len(answers), errors)


def _value(measured: Sequence[_Measured]) -> float | None:
    """The figure, or the ratio of two; None if it is unknown."""
    mine, *others = (one.value for one in measured)
    if mine is None or not others:
        return mine
    (theirs,) = others
    if theirs is None or theirs in (0.0, math.inf):
        return None
    return mine / theirs


def _hint(case: Case, ceiling: _Ceiling, run: Run, measured: Sequence[_Measured]) -> str:
    mine, value = measured[0], _value(measured)
    if (few := case.policy.min_items - min(one.items for one in measured)) > 0:
        return more_items(few, f"in {run.dataset}")
    if value is None:
        priced = "" if ceiling.unit == "s" else "Set prices (`SOFTPROMPT_PRICE_*`), then: "
        return f"{priced}{_again(case)}"
    if value == math.inf:
        return f"{mine.name} has to answer at least 99 % of the items; {mine.errors} failed."
    if value <= ceiling.limit:
        return ""
    limit = ceiling.limit * (mine.value or 0.0) / value
    return f"{mine.name} has to come down to {limit:.4g} {ceiling.unit}."


def _numbers(ceiling: _Ceiling, run: Run, measured: Sequence[_Measured]) -> dict[str, Number]:
    values = [_value(measured), *(one.value for one in measured)]
    known = {
        name: value
        for name, value in zip(("value", "candidate", "baseline"), values, strict=False)
        if value is not None and math.isfinite(value)
    }
    return {
        "dataset": run.dataset,
        "run": run.id,
        "items": measured[0].items,
        "errors": measured[0].errors,
        "limit": ceiling.limit,
        **known,
    }


def _again(case: Case) -> str:
    dataset = next((win.dataset for win in case.policy.win), None)
    dataset = dataset or next((run.dataset for run in case.runs), "DATASET")
    return case.remedy(dataset, None, case.baseline)
