"""Whether a run of an evaluation fits itself: who is scored is named, and nothing stands there twice.

Each check raises ``ValueError``, whose text begins with the field's path and a colon.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from softprompt_serve.release.evidence_parts import AnswerIn, ScoreIn, TotalIn
    from softprompt_serve.release.evidence_shapes import RunIn

MAX_COHORTS: Final = 100
MAX_SAMPLING_CHARS: Final = 16_384


def check_run(run: RunIn) -> None:
    """All checks; ``ValueError`` says what the first one found."""
    if not (run.scores or run.answers or run.totals):
        msg = "it has no scores, answers or totals"
        raise ValueError(msg)
    _check_sampling(run)
    _check_versions(run)
    _check_evaluators(run)
    cohorts = _cohorts(run)
    if len(cohorts) > MAX_COHORTS:
        msg = f"it has {len(cohorts)} cohorts; at most {MAX_COHORTS} are accepted"
        raise ValueError(msg)
    unanswered = {(a.item, a.version) for a in run.answers if a.error is not None}
    for at, score in enumerate(run.scores):
        if (score.item, score.version) in unanswered:
            msg = f"scores.{at}: {score.version} gave no answer to item {score.item}"
            raise ValueError(msg)
    _check_once("scores", ((s.item, s.version, s.evaluator) for s in run.scores))
    _check_once("answers", ((a.item, a.version) for a in run.answers))
    _check_once("totals", ((t.version, t.evaluator) for t in run.totals))


def _check_sampling(run: RunIn) -> None:
    try:
        size = len(json.dumps(run.sampling, allow_nan=False))
    except ValueError as error:  # JsonValue lets NaN and the like through
        msg = f"sampling: {error}"
        raise ValueError(msg) from error
    if size > MAX_SAMPLING_CHARS:
        msg = f"sampling: it has {size} characters as JSON; at most {MAX_SAMPLING_CHARS} are taken"
        raise ValueError(msg)


def _check_versions(run: RunIn) -> None:
    found: dict[str, Sequence[ScoreIn | AnswerIn | TotalIn]] = {
        "scores": run.scores,
        "answers": run.answers,
        "totals": run.totals,
    }
    for name, parts in found.items():
        for at, part in enumerate(parts):
            if part.version not in run.digests:
                msg = f"{name}.{at}.version: {part.version} has no digest in `digests`"
                raise ValueError(msg)


def _check_evaluators(run: RunIn) -> None:
    found: dict[str, Sequence[ScoreIn | TotalIn]] = {"scores": run.scores, "totals": run.totals}
    for name, parts in found.items():
        for at, part in enumerate(parts):
            if part.evaluator not in run.evaluators:
                msg = f"{name}.{at}.evaluator: {part.evaluator} has no version in `evaluators`"
                raise ValueError(msg)


def _cohorts(run: RunIn) -> set[str]:
    """The cohorts; an item has one, or a comparison by cohort would pair what is not a pair."""
    of: dict[str, str] = {}
    found: dict[str, Sequence[ScoreIn | AnswerIn]] = {"scores": run.scores, "answers": run.answers}
    for name, parts in found.items():
        for at, part in enumerate(parts):
            if of.setdefault(part.item, part.cohort) != part.cohort:
                msg = (
                    f"{name}.{at}.cohort: item {part.item} is in the cohort {of[part.item]} "
                    f"elsewhere, not {part.cohort}"
                )
                raise ValueError(msg)
    return set(of.values())


def _check_once(name: str, keys: Iterable[tuple[str, ...]]) -> None:
    seen = set[tuple[str, ...]]()
    for at, key in enumerate(keys):
        if key in seen:
            msg = f"{name}.{at}: {' '.join(key)} stands there twice"
            raise ValueError(msg)
        seen.add(key)
