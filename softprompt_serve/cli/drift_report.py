"""What a rerun found, as plain values and as JSON. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from softprompt_serve.release.retirement import unneeded
from softprompt_serve.release.shift import HOLM

if TYPE_CHECKING:
    from collections.abc import Mapping

    from softprompt_serve.cli.remedies import Remedy
    from softprompt_serve.release.evidence import Run
    from softprompt_serve.release.policy import Watch
    from softprompt_serve.release.retirement import Lead
    from softprompt_serve.release.shift import Shift

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Compared:
    """A rerun of one data set.

    Attributes:
        made: the new run.
        reference: the stored one that it is held against; None if it is the first.
    """

    made: Run
    reference: Run | None


@dataclass(frozen=True, slots=True)
class Found:
    """What a rerun found.

    Attributes:
        compared: a run for each data set.
        watch: by what was decided.
        shifts: of every version, evaluator and cohort.
        leads: of learned versions over the baseline.
        baseline: the version that is the policy's, or None.
        remedy: what the policy has done about it, if anything.
        failure: why that could not be done, or None.
    """

    compared: tuple[Compared, ...]
    watch: Watch
    shifts: tuple[Shift, ...]
    leads: Mapping[str, tuple[Lead, ...]]
    baseline: str | None
    remedy: Remedy | None = None
    failure: str | None = None

    def with_remedy(self, remedy: Remedy, failure: str | None = None) -> Found:
        """The same, when something was done, or could not be."""
        return replace(self, remedy=remedy, failure=failure)

    @property
    def shifted(self) -> bool:
        """Whether any score has, for better or worse."""
        return any(shift.direction != "none" for shift in self.shifts)

    @property
    def retire(self) -> tuple[str, ...]:
        """Learned versions that are no longer needed."""
        return tuple(version for version, leads in self.leads.items() if unneeded(leads))

    def to_json(self) -> Json:
        """For programs."""
        first = self.compared[0].made
        return {
            "prompt": first.prompt,
            "at": _time(first.at),
            "base": asdict(first.base),
            "versions": list(first.digests),
            "baseline": self.baseline,
            "confidence": self.watch.confidence,
            "correction": HOLM,
            "runs": [_run(one) for one in self.compared],
            "shifted": self.shifted,
            "shifts": [_shift(shift) for shift in self.shifts],
            "leads": [
                _lead(version, lead) for version, leads in self.leads.items() for lead in leads
            ],
            "retire": list(self.retire),
            "on_shift": self.watch.on_shift,
            "action": None
            if self.remedy is None
            else {**asdict(self.remedy), "failure": self.failure},
        }


def _run(one: Compared) -> Json:
    reference = one.reference
    return {
        "dataset": one.made.dataset,
        "dataset_sha256": one.made.dataset_sha256,
        "run": one.made.id,
        "reference": None
        if reference is None
        else {"run": reference.id, "at": _time(reference.at), "base": asdict(reference.base)},
    }


def _shift(shift: Shift) -> Json:
    found = shift.found
    return {
        "dataset": shift.dataset,
        "evaluator": shift.evaluator,
        "cohort": shift.cohort,
        "version": shift.version,
        "items": found.items,
        "missing": shift.missing,
        "left_out": shift.left_out,
        "old_mean": found.against_mean,
        "new_mean": found.candidate_mean,
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "interval": found.method,
        "better": found.better,
        "worse": found.worse,
        "tests": [asdict(test) for test in shift.tests],
        "direction": shift.direction,
    }


def _lead(version: str, lead: Lead) -> Json:
    found = lead.found
    return {
        "version": version,
        "dataset": lead.dataset,
        "evaluator": lead.evaluator,
        "items": found.items,
        "mean": found.candidate_mean,
        "baseline_mean": found.against_mean,
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "interval": found.method,
        "below": lead.below,
        "closed": lead.closed,
    }


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
