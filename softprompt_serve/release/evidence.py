"""Evidence: what evaluations found about versions, as plain values. Gates and reports read it.

One :class:`Run` scores several versions of a prompt on the same items of one data set, with the same
sampling: so its scores are paired by item.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from softprompt_serve.release.records import BaseModelIdentity

if TYPE_CHECKING:
    from collections.abc import Mapping

Source = Literal["run", "lm-eval", "inspect"]


Base = BaseModelIdentity
"""What was served when a run was made."""


@dataclass(frozen=True, slots=True)
class Score:
    """What one evaluator found about one version's answer to one item.

    Attributes:
        item: the item's id in its data set.
        version: the version's name.
        cohort: the item's.
        evaluator: the evaluator's name.
        value: finite; more is better; 0 to 1 for every evaluator of ours.
        passed: the verdict.
    """

    item: str
    version: str
    cohort: str
    evaluator: str
    value: float
    passed: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What one version's answer to one item cost; None is unknown.

    Attributes:
        item, version, cohort: as in :class:`Score`.
        ttft_seconds, e2e_seconds: to the first token, and to the last.
        visible_tokens, virtual_tokens, output_tokens: counts.
        cost_usd: by the server's tariff.
        error: a stable code if there was no answer; such an item has no score.
        sha256: of the answer's text, or None.
    """

    item: str
    version: str
    cohort: str
    ttft_seconds: float | None = None
    e2e_seconds: float | None = None
    visible_tokens: int | None = None
    virtual_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    error: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Total:
    """A result that is known as a mean alone, as public benchmarks publish it.

    Attributes:
        version: the version's name.
        evaluator: task and metric, such as ``mmlu_pro/exact_match``.
        mean: 0 to 1.
        stderr: its standard error, or None.
        items: how many.
    """

    version: str
    evaluator: str
    mean: float
    stderr: float | None
    items: int


@dataclass(frozen=True, slots=True)
class Run:
    """One evaluation of several versions.

    Attributes:
        id: 32 hexadecimal digits; made by whoever ran it, so that it can be sent again.
        prompt: the prompt's name.
        dataset: the data set's name.
        dataset_sha256: of its canonical content.
        digests: version → its digest when it was asked.
        evaluators: evaluator → its version.
        sampling: what each request was sent with.
        base: what was served.
        source: how it came here.
        at: Unix time of its end.
        actor: who ran it, or None.
        scores, answers, totals: what was found.
    """

    id: str
    prompt: str
    dataset: str
    dataset_sha256: str
    digests: Mapping[str, str]
    evaluators: Mapping[str, str]
    base: Base
    at: float
    source: Source = "run"
    sampling: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    actor: str | None = None
    scores: tuple[Score, ...] = ()
    answers: tuple[Answer, ...] = ()
    totals: tuple[Total, ...] = ()
