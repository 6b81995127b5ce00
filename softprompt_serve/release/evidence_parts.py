"""The parts of a run as JSON: what was served, scores, answers and totals."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

# Something that a person can read on one line: no control characters, and so no NUL, which
# PostgreSQL can't hold.
PRINTABLE = r"^[^\x00-\x1f\x7f]+$"
Line = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=PRINTABLE)]
PromptName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
RunId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Amount = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]


class Shape(BaseModel):
    """Base: frozen and strict; unknown fields, NaN and infinities are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class BaseIn(Shape):
    """What was served when the run was made; null is unknown."""

    name: Line | None = None
    revision: Line | None = None
    fingerprint: Line | None = None
    tokenizer_fingerprint: Line | None = None
    chat_template_sha256: Line | None = None


class ScoreIn(Shape):
    """What one evaluator found about one version's answer to one item."""

    item: Line = Field(description="The item's id in its data set.")
    version: PromptName
    cohort: Line
    evaluator: Line
    value: float = Field(description="More is better.")
    passed: bool


class AnswerIn(Shape):
    """What one version's answer to one item cost; null is unknown."""

    item: Line
    version: PromptName
    cohort: Line
    ttft_seconds: Amount | None = None
    e2e_seconds: Amount | None = None
    visible_tokens: Count | None = None
    virtual_tokens: Count | None = None
    output_tokens: Count | None = None
    cost_usd: Amount | None = None
    error: Line | None = Field(None, description="Its code if there was none; then no scores.")
    sha256: Sha256 | None = Field(None, description="Of its text.")


class TotalIn(Shape):
    """A result that is known as a mean alone, as public benchmarks publish it."""

    version: PromptName
    evaluator: Line = Field(description="Task and metric, such as `mmlu_pro/exact_match`.")
    mean: Annotated[float, Field(ge=0.0, le=1.0)]
    stderr: Amount | None = None
    items: Count
