"""Names of spans' attributes and events, by the convention that they come from.

``docs/telemetry.md`` lists them; a test compares those of others with the packages that define
them, so that a rename there is noticed here.
"""

from __future__ import annotations

from typing import Final

# OpenTelemetry, GenAI (in development) and HTTP (stable)
OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
PROMPT_NAME: Final = "gen_ai.prompt.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_ID: Final = "gen_ai.response.id"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHED_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
EVALUATION_NAME: Final = "gen_ai.evaluation.name"
EVALUATION_LABEL: Final = "gen_ai.evaluation.score.label"
EVALUATION_SCORE: Final = "gen_ai.evaluation.score.value"
HTTP_METHOD: Final = "http.request.method"
HTTP_ROUTE: Final = "http.route"
HTTP_STATUS: Final = "http.response.status_code"
ERROR_TYPE: Final = "error.type"

# OpenInference
SPAN_KIND: Final = "openinference.span.kind"
MODEL_NAME: Final = "llm.model_name"
TEMPLATE_VERSION: Final = "llm.prompt_template.version"
COUNT_PROMPT: Final = "llm.token_count.prompt"
COUNT_CACHED: Final = "llm.token_count.prompt_details.cache_read"
COUNT_COMPLETION: Final = "llm.token_count.completion"
COUNT_TOTAL: Final = "llm.token_count.total"
INPUT_VALUE: Final = "input.value"
OUTPUT_VALUE: Final = "output.value"

# Ours: no convention has a name for these
PROMPT_VERSION: Final = "gen_ai.prompt.version"
"""Named as the conventions name ``gen_ai.prompt.name``; they don't define it yet."""
NAME: Final = "softprompt.name"
VERSION: Final = "softprompt.version"
DIGEST: Final = "softprompt.digest"
KIND: Final = "softprompt.kind"
VIRTUAL_TOKENS: Final = "softprompt.virtual_tokens"
ARM: Final = "softprompt.arm"
REASON: Final = "softprompt.reason"
RULE: Final = "softprompt.rule"
PASSED_OVER: Final = "softprompt.passed_over"
COHORT: Final = "softprompt.cohort"
ROUTE: Final = "softprompt.route"
GENERATION: Final = "softprompt.generation"
BASE_MODEL: Final = "softprompt.base_model"
BASE_REVISION: Final = "softprompt.base_model_revision"
COST: Final = "softprompt.token_cost_per_trace"
SHADOW: Final = "softprompt.shadow"
SHADOW_OUTCOME: Final = "softprompt.shadow.outcome"
SHADOW_MATCHED: Final = "softprompt.shadow.matched"
SHADOW_DIVERGENCE: Final = "softprompt.shadow.divergence"
CHANGE: Final = "softprompt.operation.name"
SUBJECT: Final = "softprompt.operation.subject"
ACTOR: Final = "softprompt.operation.actor"
ABOUT: Final = "softprompt.operation."
"""Before the names of what else an operation says, such as ``generation`` or ``weights``."""
FEEDBACK_KIND: Final = "softprompt.feedback.kind"
FEEDBACK_VALUE: Final = "softprompt.feedback.value"
WAITED: Final = "softprompt.lease_wait_seconds"

# Events on spans
FIRST_TOKEN_EVENT: Final = "softprompt.first_token"  # noqa: S105 - of an answer
LEASE_EVENT: Final = "softprompt.lease_wait"
FEEDBACK_EVENT: Final = "softprompt.feedback"
EVALUATION_EVENT: Final = "gen_ai.evaluation.result"
