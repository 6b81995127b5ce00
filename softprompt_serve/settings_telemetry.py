"""Settings of what is measured, kept and told: prices, spans, metrics, logs, feedback, evidence, console.

Spans themselves are switched on by OpenTelemetry's own variables (``OTEL_*``).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings

from softprompt_serve.setting_types import Price, Tariffs


class TelemetrySettings(BaseSettings):
    """One part of :class:`~softprompt_serve.settings.Settings`."""

    price_input: Annotated[
        Price, Field(description="USD per million visible prompt tokens that were not cached.")
    ] = None
    price_cached_input: Annotated[
        Price, Field(description="USD per million prompt tokens that the prefix cache had.")
    ] = None
    price_virtual: Annotated[
        Price, Field(description="USD per million virtual tokens that were not cached.")
    ] = None
    price_output: Annotated[Price, Field(description="USD per million generated tokens.")] = None
    prices: Annotated[
        Tariffs,
        Field(
            description='Prices by base model, as JSON: `{"NAME": {"input": 0.1, '
            '"cached_input": 0.05, "virtual": 0.1, "output": 0.4}}` in USD per million '
            "tokens. For a base model that is named here they count instead of the four above."
        ),
    ] = {}
    metric_arms: Annotated[
        int,
        Field(
            ge=1,
            le=1_000_000,
            description="Arms (prompt, version and how it was named) that have metrics of their "
            "own on a server; what comes after is counted as `other`.",
        ),
    ] = 500
    trace_content: Annotated[
        bool,
        Field(
            description="Put the texts of prompts and answers on spans. They are on none otherwise."
        ),
    ] = False
    trace_content_chars: Annotated[
        int, Field(ge=1, le=1_000_000, description="Characters of each text on a span at most.")
    ] = 8192
    trace_redact: Annotated[
        str | None,
        Field(
            pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
            description="Function `package.module:name` that each text passes before it goes on a "
            "span: `(kind, text) -> text | None`, `kind` being `input` or `output`.",
        ),
    ] = None
    log_format: Annotated[
        Literal["text", "json"],
        Field(description="How this server and vLLM write their logs: for people, or as JSON."),
    ] = "text"
    log_requests: Annotated[
        bool, Field(description="Log one line for each request, without any text of it.")
    ] = False
    feedback_responses: Annotated[
        int,
        Field(
            ge=0,
            le=100_000_000,
            description="Answers that are remembered for feedback, the newest of all replicas. "
            "`0`: none, and feedback is refused.",
        ),
    ] = 100_000
    evidence_runs: Annotated[
        int,
        Field(
            ge=1,
            le=100_000,
            description="Runs of evaluations that are kept of each prompt, the newest ones. A "
            "version keeps its newest run on each data set by the same evaluators all the same.",
        ),
    ] = 1000
    evidence_days: Annotated[
        float | None,
        Field(
            gt=0.0,
            description="How long runs of evaluations are kept after their end, with the same "
            "exception. Unset: for ever.",
        ),
    ] = None
    console: Annotated[bool, Field(description="Serve the web console at `/softprompts/`.")] = True
    console_session_minutes: Annotated[
        int, Field(ge=1, le=10_080, description="How long a login to the console lasts.")
    ] = 480
    capture_content: Annotated[
        bool,
        Field(
            description="Keep a sample of shadow pairs with their texts, in memory alone, and show "
            "it in `GET …/shadow`."
        ),
    ] = False
    capture_pairs: Annotated[
        int, Field(ge=1, le=1000, description="Pairs that such a sample has, per prompt.")
    ] = 50
