"""What runs say about versions: a board for each evaluator on each data set. Pure.

Which run counts, who is paired with whom and all statistics are the gates' own
(``release/evidence_pick.py``, ``release/paired.py``): a report that reckons by itself would one day
disagree with the verdict above it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Final

from softprompt_serve.release.evidence_pick import Asked, compare_pairs, pick
from softprompt_serve.release.paired import UNPAIRED
from softprompt_serve.release.report_data import Board, Difference, Row
from softprompt_serve.shadow.intervals import Moments, Z, wilson

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from softprompt_serve.release.evidence import Run, Score, Total
    from softprompt_serve.release.evidence_pick import Evidence
    from softprompt_serve.release.paired import Comparison
    from softprompt_serve.release.report_contest import Contest, Demand

_ORDER: Final = {"base": 0, "hard": 1, "soft": 2, "prefix": 3}


@dataclass(frozen=True, slots=True)
class _Found:
    """What there is for a board.

    Attributes:
        run: where the candidate's values are from.
        evidence: what is compared, or None.
        objection: why the gates don't count it, or "".
    """

    run: Run
    evidence: Evidence | None
    objection: str


def boards(contest: Contest, demands: Mapping[tuple[str, str], Demand]) -> tuple[Board, ...]:
    """A board for each data set and evaluator with a value of the candidate, by name.

    Args:
        contest: who is compared, and on what.
        demands: what the policy asks, by data set and evaluator.
    """
    keys = {
        (run.dataset, evaluator)
        for run in contest.runs
        if contest.knows(run, contest.candidate)
        for evaluator in _evaluators_of(run, contest.candidate)
    }
    return tuple(
        _board(dataset, evaluator, contest, demands.get((dataset, evaluator), contest.nothing))
        for dataset, evaluator in sorted(keys)
    )


def runs_behind(runs: Iterable[Run], found: Iterable[Board], *more: Run | None) -> list[Run]:
    """The runs that boards are from, and ``more``."""
    ids = {row.run for board in found for row in board.rows}
    return [run for run in runs if run.id in ids or run in more]


def _evaluators_of(run: Run, version: str) -> set[str]:
    parts: tuple[Score | Total, ...] = (*run.scores, *run.totals)
    return {part.evaluator for part in parts if part.version == version}


def _board(dataset: str, evaluator: str, contest: Contest, demand: Demand) -> Board:
    found = _found(Asked(evaluator, dataset, demand.dataset_sha256), contest, demand)
    main = found.run
    # Another run of the very same items may have versions that this one has not.
    alike = (run for run in contest.runs if run is not main and _comparable(run, main))
    rows = _rows([main, *alike], evaluator, contest)
    values = [s.value for s in main.scores if s.evaluator == evaluator]
    return Board(
        dataset=dataset,
        dataset_sha256=main.dataset_sha256,
        evaluator=evaluator,
        evaluator_version=main.evaluators.get(evaluator),
        share=all(0.0 <= value <= 1.0 for value in values),
        rows=rows,
        differences=_differences(found.evidence, contest, demand),
        confidence=demand.confidence,
        against=demand.against,
        asked=demand.said,
        objection=found.objection,
        unmeasured=_unmeasured(rows, contest),
    )


def _found(asked: Asked, contest: Contest, demand: Demand) -> _Found:
    """What the gates count; else what is there anyhow, with the reason why they don't."""
    against = None if demand.against is None else contest.case.subject(demand.against)
    objection = ""
    if against is not None:
        for case in (contest.case, contest.lenient):
            evidence = pick(case, asked, against)
            if not isinstance(evidence, str):
                return _Found(evidence.run, evidence, objection)
            objection = objection or evidence
    for run in contest.runs:
        known = run.dataset == asked.dataset and contest.knows(run, contest.candidate)
        if known and asked.evaluator in _evaluators_of(run, contest.candidate):
            return _Found(run, None, objection)
    msg = f"no run of {asked.label} has {contest.candidate}"
    raise ValueError(msg)


def _unmeasured(rows: Iterable[Row], contest: Contest) -> tuple[str, ...]:
    """Whom the candidate should be seen beside, and isn't."""
    kinds = contest.kinds
    there = {row.version for row in rows}
    named = sorted(n for n, kind in kinds.items() if kind in {"base", "hard"} and n not in there)
    nobody = () if "base" in kinds.values() else ("base (the prompt has no version of that kind)",)
    return (*nobody, *named)


def _comparable(run: Run, main: Run) -> bool:
    return run.dataset == main.dataset and run.dataset_sha256 == main.dataset_sha256


def _rows(runs: Sequence[Run], evaluator: str, contest: Contest) -> tuple[Row, ...]:
    """A row for each version, from the first run that has it."""
    rows: dict[str, Row] = {}
    for run in runs:
        for version in run.digests:
            if version not in rows and contest.knows(run, version):
                row = _row(run, version, evaluator, contest)
                if row is not None:
                    rows[version] = row
    bar = rows.get(contest.baseline or "")

    def place(row: Row) -> tuple[bool, int, str]:
        return row.role == "candidate", _ORDER.get(row.kind or "", len(_ORDER)), row.version

    return tuple(
        replace(row, stronger=bar is not None and row.kind == "hard" and row.mean > bar.mean)
        for row in sorted(rows.values(), key=place)
    )


def _row(run: Run, version: str, evaluator: str, contest: Contest) -> Row | None:
    scores = list(contest.case.index.scores(run, evaluator, version).values())
    totals = [t for t in run.totals if t.version == version and t.evaluator == evaluator]
    if scores:
        mean, (low, high), items = fmean(s.value for s in scores), _ends(scores), len(scores)
    elif totals:
        mean, (low, high), items = totals[0].mean, _ends_of(totals[0]), totals[0].items
    else:
        return None
    kind, role = contest.kinds.get(version), contest.role(version)
    return Row(version, kind, role, mean, low, high, items, stronger=False, run=run.id)


def _ends(scores: Sequence[Score]) -> tuple[float | None, float | None]:
    """Wilson's interval of a rate; else the normal one of a mean."""
    if all(score.value in {0.0, 1.0} for score in scores):
        found = wilson(sum(score.value == 1.0 for score in scores), len(scores))
    else:
        moments = Moments()
        for score in scores:
            moments.add(score.value)
        found = moments.interval
    return found if found is not None else (None, None)


def _ends_of(total: Total) -> tuple[float | None, float | None]:
    if total.stderr is None:
        return None, None
    margin = Z * total.stderr
    return max(0.0, total.mean - margin), min(1.0, total.mean + margin)


def _differences(
    evidence: Evidence | None, contest: Contest, demand: Demand
) -> tuple[Difference, ...]:
    """All items, then each cohort by name; empty if nothing can be compared."""
    if evidence is None:
        return ()
    found = evidence.compare(demand.confidence, demand.limit or 0.0)
    whole = _difference(None, found, demand.limit)
    if isinstance(evidence.scores, tuple):
        return (whole,)
    cohorts = evidence.scores.cohorts()
    if len(cohorts) == 1 and not cohorts & contest.protected:
        return (whole,)
    parts = []
    for cohort in sorted(cohorts):
        limit = contest.cohort_limit(cohort)
        some = compare_pairs(evidence.scores.of(cohort), demand.confidence, limit or 0.0)
        parts.append(_difference(cohort, some, limit, protected=cohort in contest.protected))
    return (whole, *parts)


def _difference(
    cohort: str | None, found: Comparison, limit: float | None, *, protected: bool = False
) -> Difference:
    return Difference(
        cohort=cohort,
        items=found.items,
        candidate=found.candidate_mean,
        against=found.against_mean,
        difference=found.difference,
        low=found.low,
        high=found.high,
        p=found.p_value,
        method=found.method,
        paired=found.method != UNPAIRED,
        protected=protected,
        limit=limit,
    )
