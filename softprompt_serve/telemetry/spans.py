"""What spans say of events: plain attributes, without OpenTelemetry's SDK."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from softprompt_serve.rollout.cost import Prices
from softprompt_serve.telemetry import span_names as names
from softprompt_serve.telemetry.events import operation_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from softprompt_serve.telemetry.events import Evaluation, Feedback, Operation, RequestEvent

Attributes = dict[str, "str | bool | int | float | Sequence[str]"]

PROVIDER: Final = "vllm"
_NO_PREFIX: Final = frozenset({"version"})


@dataclass(frozen=True, slots=True)
class Describer:
    """Turns events into attributes.

    Attributes:
        base_model: the served model's name.
        base_revision: its revision, or None if that is not known.
        prices: the tariff.
    """

    base_model: str
    base_revision: str | None = None
    prices: Prices = field(default_factory=Prices)

    def arrived(self, method: str, path: str) -> Attributes:
        """What is known of a request before it is read."""
        return {
            names.HTTP_METHOD: method,
            names.HTTP_ROUTE: path,
            names.SPAN_KIND: "LLM",
            names.PROVIDER: PROVIDER,
            names.OPERATION: operation_of(path),
            names.BASE_MODEL: self.base_model,
            **({names.BASE_REVISION: self.base_revision} if self.base_revision else {}),
        }

    def answered(self, event: RequestEvent) -> Attributes:
        """What is known of a request for a prompt once it has ended; absent is what has no value."""
        decision, version = event.decision, event.decision.version
        entered = event.visible_tokens + event.virtual_tokens
        found: Mapping[str, str | bool | int | float | Sequence[str] | None] = {
            names.OPERATION: event.operation,
            names.PROMPT_NAME: version.prompt,
            names.PROMPT_VERSION: version.version,
            names.REQUEST_MODEL: version.prompt,
            names.RESPONSE_MODEL: version.label,
            names.RESPONSE_ID: event.response_id or None,
            names.FINISH_REASONS: event.finish_reasons or None,
            names.FIRST_CHUNK: event.ttft_seconds,
            names.INPUT_TOKENS: entered,
            names.OUTPUT_TOKENS: event.output_tokens,
            names.CACHED_TOKENS: event.cached_tokens,
            names.MODEL_NAME: self.base_model,
            names.TEMPLATE_VERSION: version.version,
            names.COUNT_PROMPT: event.visible_tokens,
            names.COUNT_CACHED: event.cached_tokens,
            names.COUNT_COMPLETION: event.output_tokens,
            names.COUNT_TOTAL: event.visible_tokens + event.output_tokens,
            names.NAME: version.prompt,
            names.VERSION: version.version,
            names.DIGEST: version.digest,
            names.KIND: version.kind,
            names.VIRTUAL_TOKENS: event.virtual_tokens,
            names.ARM: decision.arm,
            names.REASON: decision.reason,
            names.RULE: decision.rule,
            names.PASSED_OVER: decision.passed_over,
            names.COHORT: decision.cohort,
            names.ROUTE: decision.route,
            names.GENERATION: decision.generation,
            names.COST: self.prices.cost(event),
        }
        return {name: value for name, value in found.items() if value is not None}


def operation(made: Operation) -> Attributes:
    """What a change says of itself."""
    found: Attributes = {
        names.CHANGE: made.name,
        names.NAME: made.prompt,
        names.SUBJECT: made.subject,
        **({names.ACTOR: made.actor} if made.actor else {}),
    }
    for name, value in made.attributes.items():
        found[f"softprompt.{name}" if name in _NO_PREFIX else f"{names.ABOUT}{name}"] = value
    return found


def feedback(given: Feedback) -> Attributes:
    """What a user did about an answer; a note is never told."""
    found: Attributes = {names.FEEDBACK_KIND: given.kind}
    if given.value is not None:
        found[names.FEEDBACK_VALUE] = given.value
    return found


def evaluation(found: Evaluation) -> Attributes:
    """What an evaluator found about an answer."""
    told: Attributes = {
        names.EVALUATION_NAME: found.name,
        names.EVALUATION_LABEL: "pass" if found.passed else "fail",
    }
    if found.score is not None:
        told[names.EVALUATION_SCORE] = found.score
    return told
