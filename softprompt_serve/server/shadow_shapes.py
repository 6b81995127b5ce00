"""Shapes of the shadow route, as they appear in OpenAPI. Deltas are the shadow's minus the user's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from softprompt_serve.rollout.spec import Shadow  # noqa: TC001 - pydantic reads it
from softprompt_serve.server.schemas import Shape
from softprompt_serve.shadow.compare import Comparison  # noqa: TC001 - pydantic reads it
from softprompt_serve.shadow.counts import Counts
from softprompt_serve.shadow.intervals import wilson

if TYPE_CHECKING:
    from softprompt_serve.registry.snapshot import Prompt
    from softprompt_serve.registry.tallies import Tally
    from softprompt_serve.shadow.capture import Pair
    from softprompt_serve.shadow.intervals import Moments
    from softprompt_serve.shadow.types import Answer


class RateOut(Shape):
    """A share, with Wilson's 95 % interval."""

    count: int
    of: int
    rate: float | None
    low: float | None
    high: float | None

    @classmethod
    def at(cls, count: int, of: int) -> RateOut:
        """From counts."""
        found = wilson(count, of)
        return cls(
            count=count,
            of=of,
            rate=count / of if of else None,
            low=None if found is None else found.low,
            high=None if found is None else found.high,
        )


class MeanOut(Shape):
    """A mean, with its normal 95 % interval."""

    of: int
    mean: float | None
    low: float | None
    high: float | None

    @classmethod
    def at(cls, moments: Moments) -> MeanOut:
        """From sums."""
        found = moments.interval
        return cls(
            of=moments.count,
            mean=moments.mean,
            low=None if found is None else found.low,
            high=None if found is None else found.high,
        )


class DivergenceOut(MeanOut):
    """How much less likely the candidate finds users' answers than who gave them, nats per token."""

    tokens: int = Field(description="Of all scored answers.")
    p50: float | None
    p90: float | None
    p99: float | None


class RatesOut(Shape):
    """Shares of pairs."""

    exact: RateOut = Field(description="The texts are the same.")
    finish_equal: RateOut = Field(description="They ended for the same reason.")
    tools_equal: RateOut = Field(description="Of pairs where either asks for a tool call.")
    json_valid_user: RateOut = Field(description="Of pairs where JSON was asked for.")
    json_valid_shadow: RateOut


class MeansOut(Shape):
    """Means over pairs; ``surprise`` over scored answers."""

    similarity: MeanOut = Field(description="Normalised Indel similarity of the texts, 0 to 1.")
    word_similarity: MeanOut = Field(description="Of their sets of words, 0 to 1.")
    length_delta_chars: MeanOut
    token_delta: MeanOut
    ttft_delta_seconds: MeanOut
    e2e_delta_seconds: MeanOut
    surprise_nats: MeanOut = Field(description="The candidate's negative log-likelihood per token.")


class SummaryOut(Shape):
    """Everything that was counted of one cohort, or of all."""

    offered: int = Field(description="Requests that were drawn.")
    pairs: int = Field(description="Answers that were compared.")
    mismatches: int = Field(description="Pairs whose texts differ.")
    scored: int = Field(description="Users' answers whose likelihood was measured.")
    shed: dict[str, int] = Field(description="Copies that came to nothing, by cause.")
    rates: RatesOut
    means: MeansOut
    divergence: DivergenceOut

    @classmethod
    def of(cls, counts: Counts) -> SummaryOut:
        """Rates and means of what was counted."""
        pairs, means = counts["pairs"], counts.means
        asked, quantile = counts["json_asked"], counts.divergence.quantile
        return cls(
            offered=counts["offered"],
            pairs=pairs,
            mismatches=counts["mismatches"],
            scored=counts["scored"],
            shed=dict(sorted(counts.shed.items())),
            rates=RatesOut(
                exact=RateOut.at(counts["exact"], pairs),
                finish_equal=RateOut.at(counts["finish_equal"], pairs),
                tools_equal=RateOut.at(counts["tools_equal"], counts["tools_compared"]),
                json_valid_user=RateOut.at(counts["json_valid_user"], asked),
                json_valid_shadow=RateOut.at(counts["json_valid_shadow"], asked),
            ),
            means=MeansOut(
                similarity=MeanOut.at(means["similarity"]),
                word_similarity=MeanOut.at(means["word_similarity"]),
                length_delta_chars=MeanOut.at(means["length_delta"]),
                token_delta=MeanOut.at(means["token_delta"]),
                ttft_delta_seconds=MeanOut.at(means["ttft_delta"]),
                e2e_delta_seconds=MeanOut.at(means["e2e_delta"]),
                surprise_nats=MeanOut.at(means["surprise"]),
            ),
            divergence=DivergenceOut(
                **MeanOut.at(means["divergence"]).model_dump(),
                tokens=counts["scored_tokens"],
                p50=quantile(0.5),
                p90=quantile(0.9),
                p99=quantile(0.99),
            ),
        )


class ToolCallOut(Shape):
    """A tool call that an answer asks for; recorded, never made."""

    name: str
    arguments: str


class SampledAnswer(Shape):
    """One side of a pair, cut to a bound."""

    version: str
    text: str
    finish_reason: str | None
    output_tokens: int
    ttft_seconds: float | None
    e2e_seconds: float
    tool_calls: list[ToolCallOut]

    @classmethod
    def of(cls, version: str, answer: Answer) -> SampledAnswer:
        """From what was kept."""
        return cls(
            version=version,
            text=answer.text,
            finish_reason=answer.finish_reason,
            output_tokens=answer.output_tokens,
            ttft_seconds=answer.ttft_seconds,
            e2e_seconds=answer.e2e_seconds,
            tool_calls=[ToolCallOut(name=n, arguments=a) for n, a in answer.tool_calls],
        )


class SampleOut(Shape):
    """A pair with its texts."""

    request_id: str
    cohort: str
    route: str
    user: SampledAnswer
    shadow: SampledAnswer
    comparison: Comparison

    @classmethod
    def of(cls, pair: Pair) -> SampleOut:
        """From what was kept."""
        return cls(
            request_id=pair.request_id,
            cohort=pair.cohort,
            route=pair.route,
            user=SampledAnswer.of(pair.served, pair.user),
            shadow=SampledAnswer.of(pair.candidate, pair.shadow),
            comparison=pair.comparison,
        )


class ShadowOut(Shape):
    """What came of the shadow, on all replicas, since the comparison began."""

    prompt: str
    generation: int = Field(description="The rollout's; 0 without one.")
    epoch: int = Field(description="The generation at which the counts began.")
    shadow: Shadow | None = Field(description="As the rollout has it now, aliases resolved.")
    replicas: int = Field(description="How many have counted something, those that are gone too.")
    shed: dict[str, int] = Field(description="As in `overall`.")
    overall: SummaryOut
    cohorts: dict[str, SummaryOut]
    samples: list[SampleOut] | None = Field(
        description="A sample of pairs of the server process that answers, the latest first; "
        "null unless content capture is on."
    )

    @classmethod
    def of(cls, prompt: Prompt, tallies: list[Tally], pairs: list[Pair] | None) -> ShadowOut:
        """Sum up what replicas have counted of the shadow that there is now, or was."""
        rollout = prompt.rollout
        shadow = None if rollout is None or rollout.spec is None else rollout.spec.shadow
        rows = [t for t in tallies if shadow is None or t.version == shadow.version]
        cohorts = {
            cohort: SummaryOut.of(Counts.merged(row.data for row in rows if row.cohort == cohort))
            for cohort in sorted({row.cohort for row in rows})
        }
        overall = SummaryOut.of(Counts.merged(row.data for row in rows))
        return cls(
            prompt=prompt.name,
            generation=prompt.generation,
            epoch=0 if rollout is None else rollout.epoch,
            shadow=shadow,
            replicas=len({row.replica for row in rows}),
            shed=overall.shed,
            overall=overall,
            cohorts=cohorts,
            samples=None if pairs is None else [SampleOut.of(pair) for pair in pairs],
        )
