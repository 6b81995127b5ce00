"""The rollout document: what ``PUT …/rollout`` takes, stores and shows. Frozen pydantic models.

Shape alone is checked here; :mod:`softprompt_serve.rollout.resolve` holds it against the prompt's
versions and the declared labels.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

MAX_WEIGHT = 1_000_000
MAX_ARMS = 100

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Weight = Annotated[int, Field(ge=0, le=MAX_WEIGHT, strict=True)]
Values = Annotated[tuple[str, ...], Field(min_length=1, max_length=100)]
Metric = Literal[
    "error_rate",
    "ttft",
    "e2e",
    "output_tokens",
    "cost",
    "feedback_failures",
    "shadow_divergence",
    "shadow_mismatch",
]
RATES = frozenset({"error_rate", "feedback_failures", "shadow_mismatch"})
"""Metrics that are shares of requests; the others are distributions and need a quantile."""

OF_THE_CANDIDATE = frozenset({"shadow_divergence", "shadow_mismatch"})
"""Metrics that exist for the candidate alone, so only ``max`` can bound them."""


class Document(BaseModel):
    """Base: frozen, and unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Arm(Document):
    """A version and its share; ``alias`` is the name it was written as, if that was an alias."""

    version: Name = Field(description="A version or an alias; shown resolved.", examples=["v4"])
    weight: Weight = Field(description="Share of the traffic, relative to the other arms'.")
    alias: Name | None = Field(None, description="The alias that was written, when it was one.")


class TokenRange(Document):
    """Inclusive bounds on visible tokens, counted after the chat template."""

    min: int | None = Field(None, ge=0)
    max: int | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min is None and self.max is None:
            msg = "expected `min`, `max` or both"
            raise ValueError(msg)
        if self.min is not None and self.max is not None and self.min > self.max:
            msg = "`min` is larger than `max`"
            raise ValueError(msg)
        return self


class Match(Document):
    """All conditions that are given must hold; within one, any of its values does."""

    cohort: tuple[Name, ...] | None = Field(None, min_length=1)
    route: tuple[Name, ...] | None = Field(None, min_length=1)
    headers: dict[str, Values] | None = Field(None, min_length=1, max_length=100)
    tools: bool | None = None
    visible_tokens: TokenRange | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set or all(
            getattr(self, name) is None for name in type(self).model_fields
        ):
            msg = "expected at least one of cohort, route, headers, tools, visible_tokens"
            raise ValueError(msg)
        return self


class Rule(Document):
    """Who matches gets ``version``, or a sticky split of their own."""

    name: Name
    match: Match
    version: Name | None = None
    alias: Name | None = Field(None, description="The alias that was written, when it was one.")
    split: tuple[Arm, ...] | None = Field(None, min_length=1, max_length=MAX_ARMS)

    @model_validator(mode="after")
    def _one_action(self) -> Self:
        if (self.version is None) == (self.split is None):
            msg = "expected either `version` or `split`"
            raise ValueError(msg)
        return self

    def versions(self) -> frozenset[str]:
        """Every version that this rule names."""
        alone = () if self.version is None else (self.version,)
        return frozenset((*alone, *(arm.version for arm in self.split or ())))


class Shadow(Document):
    """A copy of a share of the traffic for a version whose answers nobody sees."""

    version: Name
    alias: Name | None = Field(None, description="The alias that was written, when it was one.")
    sample: float = Field(gt=0.0, le=1.0, description="Share of requests that are copied.")
    mode: Literal["generate", "score", "both"] = Field(
        "generate",
        description="`generate` answers the request again; `score` only measures how likely the "
        "candidate finds the user's answer, in one prefill; `both` does both.",
    )
    max_concurrency: int = Field(2, ge=1, le=1000)
    max_tokens_per_second: float = Field(500.0, gt=0.0)
    timeout_seconds: float = Field(60.0, gt=0.0, le=3600.0)


class Step(Document):
    """The candidate's weight, and what must be seen before the next step."""

    weight: Annotated[int, Field(ge=1, le=MAX_WEIGHT, strict=True)] = Field(
        description="Of the sum of the arms' weights; the baseline has the rest."
    )
    min_requests: int = Field(100, ge=1, description="Answers of the candidate in this step.")
    min_duration_seconds: float = Field(60.0, ge=0.0)


class Gate(Document):
    """What the candidate must not do; broken when that is certain, at any time (see ``alpha``).

    Rates (``error_rate``, …) are bounded by ``max`` or, against the baseline, by ``max_increase``.
    Distributions (``ttft``, …) are bounded at ``quantile`` by ``max`` or, against the baseline's
    same quantile, by ``max_ratio``. Units: seconds, tokens, USD, nats per token.
    """

    metric: Metric
    quantile: float | None = Field(None, gt=0.0, lt=1.0)
    max: float | None = Field(None, ge=0.0)
    max_increase: float | None = Field(None, ge=0.0)
    max_ratio: float | None = Field(None, ge=1.0)
    cohorts: tuple[Name, ...] | None = Field(
        None, min_length=1, description="Held for each of these; unset: over all and for each."
    )

    @model_validator(mode="after")
    def _bound_fits(self) -> Self:
        rate = self.metric in RATES
        if rate == (self.quantile is not None):
            msg = f"{self.metric} is " + ("a rate: no `quantile`" if rate else "needs a `quantile`")
            raise ValueError(msg)
        allowed = {"max"} | (
            set() if self.metric in OF_THE_CANDIDATE else {"max_increase" if rate else "max_ratio"}
        )
        given = {
            name for name in ("max", "max_increase", "max_ratio") if getattr(self, name) is not None
        }
        if len(given) != 1 or not given <= allowed:
            msg = f"{self.metric} takes exactly one of {', '.join(sorted(allowed))}"
            raise ValueError(msg)
        return self

    @property
    def of_the_shadow(self) -> bool:
        """Whether it is measured on shadow answers."""
        return self.metric in OF_THE_CANDIDATE

    @property
    def label(self) -> str:
        """A short name, such as ``ttft p99 max_ratio 1.2``."""
        at = "" if self.quantile is None else f" p{self.quantile * 100:g}"
        for bound in ("max", "max_increase", "max_ratio"):
            if (value := getattr(self, bound)) is not None:
                return f"{self.metric}{at} {bound} {value:g}"
        return self.metric


class RolloutSpec(Document):
    """How a prompt's traffic is split."""

    arms: tuple[Arm, ...] = Field(min_length=1, max_length=MAX_ARMS)
    rules: tuple[Rule, ...] = Field((), max_length=100)
    shadow: Shadow | None = None
    steps: tuple[Step, ...] = Field((), max_length=100)
    gates: tuple[Gate, ...] = Field((), max_length=50)
    alpha: float = Field(
        0.05, gt=0.0, lt=0.5, description="Chance of a false rollback, over the whole rollout."
    )
    on_failure: Literal["rollback", "pause"] = "rollback"
    pause_after_idle_seconds: float = Field(
        600.0, gt=0.0, description="Without an answer of the candidate for this long, pause."
    )

    @property
    def total_weight(self) -> int:
        """The sum of the arms' weights."""
        return sum(arm.weight for arm in self.arms)

    def versions(self) -> frozenset[str]:
        """Every version that this document names."""
        named = {arm.version for arm in self.arms}
        named |= {self.shadow.version} if self.shadow else set()
        return frozenset(named.union(*(rule.versions() for rule in self.rules)))
