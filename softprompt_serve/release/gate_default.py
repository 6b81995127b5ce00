"""Gates where a policy names nothing to win: something must be won, and nothing lost. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from softprompt_serve.release.evidence_pick import Asked, Evidence, pick
from softprompt_serve.release.gate_words import more_items, percent, shortfall
from softprompt_serve.release.policy import BASELINE
from softprompt_serve.release.verdict import Gate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from softprompt_serve.release.case import Case
    from softprompt_serve.release.paired import Comparison
    from softprompt_serve.release.verdict import Number

CONFIDENCE: Final = 0.95

Known = dict[Asked, tuple[Evidence, "Comparison"]]


def default_gates(case: Case) -> Iterator[Gate]:
    """Two gates over all that the evidence measures of candidate and baseline.

    The best of several comparisons is won by chance more easily than one alone, so what the
    interval leaves out is divided among them (Bonferroni). Means alone can be lost, but win nothing.
    """
    known = known_of(case)
    yield _something_won(case, known)
    yield _nothing_lost(case, known)


def known_of(case: Case) -> Known:
    """All evidence that counts of candidate and baseline, compared."""
    known: Known = {}
    for evaluator, dataset in case.measured() if case.baseline else ():
        asked = Asked(evaluator, dataset)
        found = case.baseline and pick(case, asked, case.baseline)
        if isinstance(found, Evidence):
            known[asked] = (found, found.compare(CONFIDENCE, 0.0))
    return known


def _something_won(case: Case, known: Known) -> Gate:
    least, name = case.policy.min_items, "win any"
    enough = {
        asked: one for asked, (one, found) in known.items() if one.paired and found.items >= least
    }
    confidence = 1.0 - (1.0 - CONFIDENCE) / max(1, len(enough))
    wanted = (
        f"one data set of at least {least} items on which an evaluator finds the candidate above "
        f"{case.policy.baseline}, with {percent(confidence)} confidence"
        + (f" ({percent(CONFIDENCE)} over {len(enough)} comparisons)" if len(enough) > 1 else "")
    )
    if not enough:
        return _too_little(case, known, name, wanted)
    compared = {asked: one.compare(confidence, 0.0) for asked, one in enough.items()}
    best = min(compared, key=lambda asked: compared[asked].p_value)
    found, one = compared[best], enough[best]
    return Gate.of(
        name,
        f"{best.label}: {one.said(found, case.candidate.name)}",
        wanted,
        "" if found.exceeds else shortfall(found, case.candidate.name),
        {
            "evaluator": best.evaluator,
            "dataset": best.dataset,
            "comparisons": len(enough),
            **one.numbers(found),
        },
    )


def _too_little(case: Case, known: Known, name: str, wanted: str) -> Gate:
    """No comparison is large enough; the largest says what is missing, or why nothing counts."""
    paired = {asked: found for asked, (one, found) in known.items() if one.paired}
    if paired:
        asked = max(paired, key=lambda asked: paired[asked].items)
        few = paired[asked].items
        hint = more_items(case.policy.min_items - few, f"in {asked.dataset}")
        numbers: dict[str, Number] = {
            "evaluator": asked.evaluator,
            "dataset": asked.dataset,
            "items": few,
        }
        return Gate.of(name, f"at most {few} items ({asked.label})", wanted, hint, numbers)
    if case.baseline is None:
        return Gate.of(name, "no baseline to compare with", wanted, case.bring(BASELINE))
    measured = case.measured()
    if not measured:
        return Gate.of(name, "no evidence", wanted, case.remedy("DATASET", None, case.baseline))
    asked = Asked(*measured[0])
    why = pick(case, asked, case.baseline)
    said = f"no evidence that counts; {why}" if isinstance(why, str) else "means alone, no items"
    remedy = case.remedy(asked.dataset, asked.evaluator, case.baseline)
    return Gate.of(name, said, wanted, remedy)


def _nothing_lost(case: Case, known: Known) -> Gate:
    lost = {asked: (one, found) for asked, (one, found) in known.items() if found.lost}
    wanted = f"nothing below {case.policy.baseline} with {percent(CONFIDENCE)} confidence"
    numbers = {"comparisons": len(known), "lost": len(lost), "confidence": CONFIDENCE}
    if lost:
        said = (f"{a.label}: {one.said(f, case.candidate.name)}" for a, (one, f) in lost.items())
        hint = (
            f"{case.candidate.name} has to become better there, or a policy has to say what it "
            "must win and what it may lose (`win`, `hold`)."
        )
        return Gate.of("lose none", "; ".join(said), wanted, hint, numbers)
    if not known:
        dataset = next((dataset for _, dataset in case.measured()), "DATASET")
        remedy = case.remedy(dataset, None, case.baseline)
        return Gate.of("lose none", "nothing was compared", wanted, remedy, numbers)
    return Gate.of("lose none", f"none of {len(known)} is lost", wanted, "", numbers)
