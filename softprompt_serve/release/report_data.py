"""What a report says, as plain values: :func:`~softprompt_serve.release.report.compose` makes it.

Renderers write it down and decide nothing. Every text in it may come from a user.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Standing = Literal["better", "worse", "open"]


@dataclass(frozen=True, slots=True)
class Fact:
    """A name and a value; None is what nobody recorded.

    Attributes:
        name: for a person.
        value: as text.
        exact: a digest, an id or code, where each character counts.
    """

    name: str
    value: str | None
    exact: bool = False


@dataclass(frozen=True, slots=True)
class GateRow:
    """One demand of the policy, and what was found."""

    name: str
    passed: bool
    found: str
    wanted: str
    hint: str


@dataclass(frozen=True, slots=True)
class Difference:
    """Candidate minus another on the same items, for one cohort or all (None).

    Attributes:
        cohort: the cohort, or None for all items.
        items: pairs.
        candidate, against: their means.
        difference, low, high: the mean difference and its interval.
        p: one-sided, of a true difference of ``limit`` (0 without one) or less.
        method: how interval and p were found.
        paired: whether item was compared with item.
        protected: whether the policy guards this cohort.
        limit: the least that the policy wants of the difference, or None.
    """

    cohort: str | None
    items: int
    candidate: float
    against: float
    difference: float
    low: float
    high: float
    p: float
    method: str
    paired: bool = True
    protected: bool = False
    limit: float | None = None

    @property
    def standing(self) -> Standing:
        """What the interval says alone: 0 lies below it, above it or in it."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "open"


@dataclass(frozen=True, slots=True)
class Row:
    """One version's mean of one evaluator on one data set.

    Attributes:
        version: its name.
        kind: ``soft``, ``prefix``, ``hard``, ``base``, or None if the catalogue has no such version.
        role: ``candidate``, ``baseline`` or "".
        mean, low, high: the mean and its 95 % interval; no interval is None.
        items: how many.
        stronger: a hard version whose mean is above the named baseline's.
        run: the id of the run that it comes from.
    """

    version: str
    kind: str | None
    role: str
    mean: float
    low: float | None
    high: float | None
    items: int
    stronger: bool
    run: str


@dataclass(frozen=True, slots=True)
class Board:
    """One evaluator on one data set.

    Attributes:
        dataset, dataset_sha256, evaluator, evaluator_version: what was measured, and with what.
        share: whether values are shares from 0 to 1, which are shown as percentages.
        rows: base, hard versions, the candidate and others.
        differences: all items first, then by cohort; empty where items aren't known.
        confidence: of the differences' intervals.
        against: the version that is compared with, or None.
        asked: what the policy asks of it, or "".
        objection: why the gates don't count this evidence, or "".
        unmeasured: base and hard versions that have no value here.
    """

    dataset: str
    dataset_sha256: str
    evaluator: str
    evaluator_version: str | None
    share: bool
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    confidence: float
    against: str | None
    asked: str
    objection: str = ""
    unmeasured: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The data set and the evaluator, for a heading."""
        return f"{self.dataset} · {self.evaluator}"

    @property
    def paired(self) -> bool:
        """Whether items were compared with themselves, and not mean with mean."""
        return all(row.paired for row in self.differences)

    @property
    def methods(self) -> tuple[str, ...]:
        """How differences were found, each method once."""
        return tuple(dict.fromkeys(row.method for row in self.differences))


@dataclass(frozen=True, slots=True)
class Toll:
    """What one version's answers took; None is unknown.

    Attributes:
        version: its name.
        role: ``candidate``, ``baseline``, ``base`` or "".
        answers, errors: how many were had, and how many were not.
        ttft, e2e: seconds at p50, p95 and p99, or empty.
        visible_tokens, virtual_tokens, output_tokens: means of an answer.
        cost_usd: mean of an answer.
        cost_ratio: to the baseline's.
        seconds: every answer's whole time, sorted.
    """

    version: str
    role: str
    answers: int
    errors: int
    ttft: Mapping[str, float]
    e2e: Mapping[str, float]
    visible_tokens: float | None
    virtual_tokens: float | None
    output_tokens: float | None
    cost_usd: float | None
    cost_ratio: float | None
    seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Curve:
    """A figure that training wrote down as it went: ``(step, value)``."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A step of the lineage, the version itself first."""

    name: str
    digest: str | None
    note: str


@dataclass(frozen=True, slots=True)
class Proof:
    """One run that the report rests on."""

    id: str
    source: str
    at: str
    age: str
    actor: str | None
    dataset: str
    dataset_sha256: str
    versions: tuple[Fact, ...]
    evaluators: tuple[Fact, ...]
    sampling: tuple[Fact, ...]
    base: tuple[Fact, ...]
    objections: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Event:
    """A change in the history; ``forced`` is one that went past the gates."""

    at: str
    actor: str | None
    action: str
    subject: str
    detail: str
    forced: bool


@dataclass(frozen=True, slots=True)
class ReportData:
    """A whole report.

    Attributes:
        label, digest: ``prompt@version`` and its content's digest.
        verdict: one line; ``passed`` is None where nobody could judge.
        warnings: what a reader must not miss.
        generated: when and by what.
        what: the version's facts; ``text`` is a hard version's text in full.
        gates: one row each; ``baseline`` is its name, ``policy`` what it asks besides.
        results, anchors: boards that are to be won, and those that are to be held.
        tolls: latency and cost; ``toll_note`` says where they are from, ``toll_limit`` the
            policy's ceiling of p99 in seconds.
        training, missing, curves, notes: the release record.
        lineage, proofs, history: where it comes from, what the evidence is, what was done;
            ``older`` changes are not listed.
    """

    label: str
    digest: str
    passed: bool | None
    verdict: str
    warnings: tuple[str, ...]
    generated: tuple[Fact, ...]
    what: tuple[Fact, ...]
    text: str | None
    gates: tuple[GateRow, ...]
    baseline: str | None
    policy: tuple[Fact, ...]
    results: tuple[Board, ...]
    anchors: tuple[Board, ...]
    tolls: tuple[Toll, ...]
    toll_note: str
    toll_limit: float | None
    training: tuple[Fact, ...]
    missing: tuple[str, ...]
    curves: tuple[Curve, ...]
    notes: str | None
    lineage: tuple[Ancestor, ...]
    proofs: tuple[Proof, ...]
    history: tuple[Event, ...]
    older: int
