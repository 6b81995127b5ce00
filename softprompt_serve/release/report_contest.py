"""Who is compared in a report, and what the policy asks of the comparison. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from softprompt_serve.release.case import Case
from softprompt_serve.release.policy import BASE, BASELINE, PROTECTED, Policy
from softprompt_serve.release.verdict import Subject

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from softprompt_serve.release.evidence import Base, Run

    Data = Mapping[str, Any]

CONFIDENCE: Final = 0.95
_EVER: Final = 1e9
_HUNDRED: Final = 100


@dataclass(frozen=True, slots=True)
class Demand:
    """What the policy asks on one data set by one evaluator.

    Attributes:
        limit: what the difference must be above, or None.
        confidence: of the difference's interval.
        against: the version compared with, or None.
        said: the same in words.
        dataset_sha256: of the one content of the data set that counts, or None.
    """

    limit: float | None
    confidence: float
    against: str | None
    said: str
    dataset_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Contest:
    """Who is compared.

    Attributes:
        case: as the gates see it.
        lenient: the same, but old evidence and that of another base model count, too.
        runs: what the gates would look at first, each part from the newest on.
        protected: cohorts that the policy guards; each may drop by less than ``max_drop``.
    """

    case: Case
    lenient: Case
    runs: tuple[Run, ...]
    protected: frozenset[str]
    max_drop: float | None

    @property
    def candidate(self) -> str:
        """The version that the report is about."""
        return self.case.candidate.name

    @property
    def baseline(self) -> str | None:
        """What the policy's baseline stands for."""
        return None if self.case.baseline is None else self.case.baseline.name

    @property
    def kinds(self) -> dict[str, str]:
        """Version → its kind."""
        return {version.name: version.kind for version in self.case.versions}

    @property
    def digests(self) -> dict[str, str]:
        """Version → its digest."""
        return {version.name: version.digest for version in self.case.versions}

    @property
    def nothing(self) -> Demand:
        """The demand on what the policy says nothing about: a look at the baseline."""
        return Demand(None, CONFIDENCE, self.baseline, "")

    def role(self, version: str) -> str:
        """What a version is here."""
        if version == self.candidate:
            return "candidate"
        return "baseline" if version == self.baseline else ""

    def knows(self, run: Run, version: str) -> bool:
        """Whether a run says something about what the version is now."""
        digest = run.digests.get(version)
        return digest is not None and self.digests.get(version, digest) == digest

    def cohort_limit(self, cohort: str) -> float | None:
        """What a cohort's difference must be above, or None."""
        return -self.max_drop if cohort in self.protected and self.max_drop is not None else None


def contest_of(
    version: Data,
    versions: Sequence[Data],
    policy: Policy | None,
    runs: Sequence[Run],
    *,
    served: Base,
    now: float,
) -> Contest:
    """Who is compared, from what the API says of the prompt's versions."""
    subjects = {other["version"]: _subject(other) for other in versions}
    named = None if policy is None else policy.baseline
    for other in versions:
        if named in other["aliases"]:
            named = other["version"]
    # Without a policy nothing is asked, of evidence neither; a case needs one all the same.
    asked = policy or Policy(baseline="none", same_base=False, max_age_days=_EVER)
    newest = tuple(sorted(runs, key=lambda run: (-run.at, run.id)))
    case = Case(
        prompt=version["prompt"],
        policy=asked,
        candidate=_subject(version),
        baseline=subjects.get(named or ""),
        versions=tuple(subjects.values()),
        runs=newest,
        served=served,
        now=now,
    )
    lenient = asked.model_copy(update={"same_base": False, "max_age_days": _EVER})
    return Contest(
        case=case,
        lenient=replace(case, policy=lenient),
        runs=tuple(sorted(newest, key=lambda run: case.objection(run) is not None)),
        protected=frozenset(() if policy is None else policy.cohorts.protected or PROTECTED),
        max_drop=None if policy is None else policy.cohorts.max_drop,
    )


def demands_of(policy: Policy | None, contest: Contest) -> dict[tuple[str, str], Demand]:
    """What is asked on each data set by each evaluator; a win counts before what must hold."""
    demands: dict[tuple[str, str], Demand] = {}
    if policy is None:
        return demands
    for hold in policy.hold:
        against = _against(hold.against, contest)
        said = f"a drop of less than {_points(hold.max_drop)} against {against}"
        demand = Demand(-hold.max_drop, hold.confidence, against, said, hold.dataset_sha256)
        demands.setdefault((hold.dataset, hold.evaluator), demand)
    for win in policy.win:
        said = f"a win of more than {_points(win.margin)} against {contest.baseline}"
        demand = Demand(win.margin, win.confidence, contest.baseline, said, win.dataset_sha256)
        demands[win.dataset, win.evaluator] = demand
    return demands


def _subject(version: Data) -> Subject:
    loaded = version["state"] != "unloaded"
    return Subject.of(version["version"], version["kind"], version["digest"], loaded=loaded)


def _against(named: str, contest: Contest) -> str:
    if named not in {BASELINE, BASE}:
        return named
    found = contest.case.subject(named)
    return named if found is None else found.name


def _points(value: float) -> str:
    return f"{value * _HUNDRED:g} points"
