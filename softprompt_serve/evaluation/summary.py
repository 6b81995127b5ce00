"""What a run found, in figures: by evaluator and cohort, each version beside the first. Pure.

For a look at one run. What a promotion asks for is tested in ``release/gates.py``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from statistics import fmean, quantiles
from typing import TYPE_CHECKING, Any, Final

from softprompt_serve.shadow.intervals import Interval, Moments, wilson

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from softprompt_serve.release.evidence import Answer, Run, Score

ALL: Final = "all"
"""Stands for all cohorts together."""

Row = dict[str, Any]


def summary_of(run: Run, unscored: Mapping[tuple[str, str, str], str] | None = None) -> Row:
    """The figures as JSON.

    Intervals are of 95 %: Wilson's where every value is 0 or 1, else normal ones of the mean.
    Differences are of pairs, to the first version.

    Args:
        run: with scores, answers or totals.
        unscored: answers on which an evaluator came to no verdict, by item, version and evaluator.
    """
    versions = list(run.digests)
    return {
        "run": run.id,
        "prompt": run.prompt,
        "dataset": run.dataset,
        "dataset_sha256": run.dataset_sha256,
        "versions": versions,
        "scores": _scores(run.scores, versions),
        "totals": [
            {
                "evaluator": total.evaluator,
                "version": total.version,
                "items": total.items,
                "mean": total.mean,
                "stderr": total.stderr,
            }
            for total in run.totals
        ],
        "answers": [_answers(version, run.answers) for version in versions if run.answers],
        "unscored": [
            {"evaluator": evaluator, "version": version, "items": count}
            for (evaluator, version), count in sorted(
                Counter((name, version) for _, version, name in unscored or {}).items()
            )
        ],
    }


def _scores(scores: Sequence[Score], versions: list[str]) -> list[Row]:
    """A row for each evaluator, cohort and version; all cohorts first if there is more than one."""
    found: dict[str, dict[str, dict[str, dict[str, Score]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(dict))
    )
    for score in scores:
        for cohort in (ALL, score.cohort):
            found[score.evaluator][cohort][score.version][score.item] = score
    rows = []
    for evaluator, cohorts in sorted(found.items()):
        only = len(cohorts) == len((ALL, "the only one"))
        for cohort in [ALL] if only else [ALL, *sorted(cohorts.keys() - {ALL})]:
            by_version = cohorts[cohort]
            first = by_version.get(versions[0], {})
            for version in versions:
                row = {"evaluator": evaluator, "cohort": cohort, "version": version}
                mine = by_version.get(version, {})
                difference = None if version == versions[0] else _difference(first, mine)
                rows.append({**row, **_mean(mine.values()), "difference": difference})
    return rows


def _mean(scores: Any) -> Row:
    values = [score.value for score in scores]
    passed = sum(score.passed for score in scores)
    interval: Interval | None
    if all(value in {0.0, 1.0} for value in values):
        interval = wilson(int(sum(values)), len(values))
    else:
        interval = _moments(values).interval
    return {
        "items": len(values),
        "passed": passed,
        "mean": fmean(values) if values else None,
        "low": None if interval is None else max(0.0, interval.low),
        "high": None if interval is None else min(1.0, interval.high),
    }


def _difference(first: Mapping[str, Score], other: Mapping[str, Score]) -> Row:
    pairs = [(first[item].value, other[item].value) for item in first if item in other]
    moments = _moments([mine - theirs for theirs, mine in pairs])
    interval = moments.interval
    return {
        "pairs": len(pairs),
        "mean": moments.mean,
        "low": None if interval is None else interval.low,
        "high": None if interval is None else interval.high,
        "better": sum(mine > theirs for theirs, mine in pairs),
        "worse": sum(mine < theirs for theirs, mine in pairs),
    }


def _moments(values: Sequence[float]) -> Moments:
    moments = Moments()
    for value in values:
        moments.add(value)
    return moments


def _answers(version: str, answers: Sequence[Answer]) -> Row:
    mine = [answer for answer in answers if answer.version == version]
    there = [answer for answer in mine if answer.error is None]
    costs = [answer.cost_usd for answer in there if answer.cost_usd is not None]
    return {
        "version": version,
        "items": len(mine),
        "errors": dict(sorted(Counter(a.error for a in mine if a.error is not None).items())),
        "ttft_seconds": _spread([a.ttft_seconds for a in there]),
        "e2e_seconds": _spread([a.e2e_seconds for a in there]),
        "visible_tokens": _average([a.visible_tokens for a in there]),
        "virtual_tokens": _average([a.virtual_tokens for a in there]),
        "output_tokens": _average([a.output_tokens for a in there]),
        "cost_usd": fmean(costs) if costs and len(costs) == len(there) else None,
    }


def _average(counts: Sequence[int | None]) -> float | None:
    known = [count for count in counts if count is not None]
    return fmean(known) if known else None


def _spread(seconds: Sequence[float | None]) -> Row | None:
    known = [value for value in seconds if value is not None]
    if not known:
        return None
    if len(known) == 1:
        return {"p50": known[0], "p99": known[0]}
    cuts = quantiles(known, n=100, method="inclusive")
    return {"p50": cuts[49], "p99": cuts[98]}
