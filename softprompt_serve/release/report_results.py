"""What runs say about versions: a board for each evaluator on each data set. Pure.

Versions are compared within one run, where they answered the same items; the statistics are those
of the gates (``release/paired.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Final

from softprompt_serve.release.paired import UNPAIRED, Mean, compare, compare_means
from softprompt_serve.release.report_data import Board, Difference, Row
from softprompt_serve.shadow.intervals import Moments, Z, wilson

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from softprompt_serve.release.evidence import Run, Score, Total
    from softprompt_serve.release.paired import Comparison

ALL: Final = None
CONFIDENCE: Final = 0.95
_ORDER: Final = {"base": 0, "hard": 1, "soft": 2}


@dataclass(frozen=True, slots=True)
class Contest:
    """Who is compared.

    Attributes:
        candidate: the version that the report is about.
        baseline: the policy's hard version, or None.
        kinds: version → its kind.
        digests: version → its digest.
        protected: cohorts that the policy guards; each may drop by ``max_drop``.
    """

    candidate: str
    baseline: str | None
    kinds: Mapping[str, str]
    digests: Mapping[str, str]
    protected: frozenset[str] = frozenset()
    max_drop: float | None = None

    def role(self, version: str) -> str:
        """What a version is here."""
        if version == self.candidate:
            return "candidate"
        return "baseline" if version == self.baseline else ""

    def counts(self, run: Run, version: str) -> bool:
        """Whether a run says something about what the version is now."""
        digest = run.digests.get(version)
        return digest is not None and self.digests.get(version, digest) == digest


@dataclass(frozen=True, slots=True)
class Asked:
    """What the policy asks on one data set by one evaluator.

    Attributes:
        limit: the least difference, or None.
        confidence: of its interval.
        against: the version compared with.
        said: the same in words.
    """

    limit: float | None
    confidence: float
    against: str | None
    said: str


def boards(
    ranked: Sequence[Run], contest: Contest, asked: Mapping[tuple[str, str], Asked]
) -> tuple[Board, ...]:
    """A board for each data set and evaluator with a value of the candidate, by name.

    Args:
        ranked: the prompt's runs, the one to believe first.
        contest: who is compared.
        asked: what the policy asks, by data set and evaluator.
    """
    keys = {
        (run.dataset, evaluator)
        for run in ranked
        if contest.counts(run, contest.candidate)
        for evaluator in _evaluators_of(run, contest.candidate)
    }
    default = Asked(None, CONFIDENCE, contest.baseline, "")
    return tuple(
        _board(dataset, evaluator, ranked, contest, asked.get((dataset, evaluator), default))
        for dataset, evaluator in sorted(keys)
    )


def runs_behind(runs: Iterable[Run], found: Iterable[Board], *more: Run | None) -> list[Run]:
    """The runs that boards are from, and ``more``."""
    ids = {row.run for board in found for row in board.rows}
    return [run for run in runs if run.id in ids or run in more]


def newest_of_both(ranked: Iterable[Run], contest: Contest, *others: str | None) -> Run | None:
    """The first run that has the candidate and each of ``others``; else the first with it."""
    with_it = [run for run in ranked if contest.counts(run, contest.candidate)]
    wanted = [other for other in others if other is not None]
    both = (run for run in with_it if all(contest.counts(run, other) for other in wanted))
    return next(both, with_it[0] if with_it else None)


def _evaluators_of(run: Run, version: str) -> set[str]:
    parts: tuple[Score | Total, ...] = (*run.scores, *run.totals)
    return {part.evaluator for part in parts if part.version == version}


def _board(
    dataset: str, evaluator: str, ranked: Sequence[Run], contest: Contest, asked: Asked
) -> Board:
    there = [
        run
        for run in ranked
        if run.dataset == dataset and evaluator in _evaluators_of(run, contest.candidate)
    ]
    main = newest_of_both(there, contest, asked.against, contest.baseline)
    if main is None:  # boards() asks for none without a run
        msg = f"no run of {dataset}"
        raise ValueError(msg)
    # Another run of the very same items may have versions that this one has not.
    same = [main, *(r for r in ranked if r is not main and _comparable(r, main))]
    rows = _rows(same, evaluator, contest)
    hard = {name for name, kind in contest.kinds.items() if kind == "hard"}
    values = [s.value for s in main.scores if s.evaluator == evaluator]
    return Board(
        dataset=dataset,
        dataset_sha256=main.dataset_sha256,
        evaluator=evaluator,
        evaluator_version=main.evaluators.get(evaluator),
        share=all(0.0 <= value <= 1.0 for value in values),
        rows=rows,
        differences=_differences(main, evaluator, contest, asked),
        confidence=asked.confidence,
        against=asked.against,
        asked=asked.said,
        unmeasured=tuple(sorted(hard - {row.version for row in rows})),
    )


def _comparable(run: Run, main: Run) -> bool:
    return run.dataset == main.dataset and run.dataset_sha256 == main.dataset_sha256


def _rows(runs: Sequence[Run], evaluator: str, contest: Contest) -> tuple[Row, ...]:
    """A row for each version, from the first run that has it."""
    rows: dict[str, Row] = {}
    for run in runs:
        for version in run.digests:
            if version not in rows and contest.counts(run, version):
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
    scores = [s for s in run.scores if s.version == version and s.evaluator == evaluator]
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
    if all(score.value in (0.0, 1.0) for score in scores):
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
    run: Run, evaluator: str, contest: Contest, asked: Asked
) -> tuple[Difference, ...]:
    """All items, then each cohort by name; empty if the two can't be compared."""
    if asked.against is None or not contest.counts(run, asked.against):
        return ()
    ours, theirs = (
        {s.item: s for s in run.scores if s.version == version and s.evaluator == evaluator}
        for version in (contest.candidate, asked.against)
    )
    pairs = [(ours[item], theirs[item]) for item in sorted(ours.keys() & theirs.keys())]
    if not pairs:
        return _of_totals(run, evaluator, contest, asked)
    found = [_difference(None, pairs, asked.confidence, limit=asked.limit)]
    cohorts = sorted({one.cohort for one, _ in pairs})
    for cohort in cohorts if len(cohorts) > 1 or contest.protected & set(cohorts) else ():
        some = [(one, other) for one, other in pairs if one.cohort == cohort]
        protected = cohort in contest.protected
        limit = -contest.max_drop if protected and contest.max_drop is not None else None
        found.append(_difference(cohort, some, asked.confidence, limit=limit, protected=protected))
    return tuple(found)


def _difference(
    cohort: str | None,
    pairs: Sequence[tuple[Score, Score]],
    confidence: float,
    *,
    limit: float | None,
    protected: bool = False,
) -> Difference:
    ours, theirs = [one.value for one, _ in pairs], [other.value for _, other in pairs]
    found = compare(ours, theirs, confidence=confidence, margin=limit or 0.0)
    return _as_difference(cohort, found, limit, protected=protected)


def _of_totals(run: Run, evaluator: str, contest: Contest, asked: Asked) -> tuple[Difference, ...]:
    """The one difference of two published means."""
    totals = {t.version: t for t in run.totals if t.evaluator == evaluator and t.items}
    ours, theirs = totals.get(contest.candidate), totals.get(asked.against or "")
    if ours is None or theirs is None:
        return ()
    found = compare_means(
        Mean(ours.mean, ours.stderr, ours.items),
        Mean(theirs.mean, theirs.stderr, theirs.items),
        confidence=asked.confidence,
        margin=asked.limit or 0.0,
    )
    return (_as_difference(None, found, asked.limit, protected=False),)


def _as_difference(
    cohort: str | None, found: Comparison, limit: float | None, *, protected: bool
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
