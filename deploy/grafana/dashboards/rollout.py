"""A rollout: weights, arms against the baseline, the shadow, and the controller."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dashboards.frame import dashboard
from dashboards.panels import BY_ROLE, BY_VERSION, Query, bars, lines, timeline
from dashboards.queries import (
    SHADOWS,
    STATES,
    STEP,
    VERSIONS,
    by_role,
    counted,
    matching,
    or_zero,
    quantile,
    quantile_by_role,
    rate,
    ratio,
    states,
)

if TYPE_CHECKING:
    from grafana_foundation_sdk.cog.builder import Builder
    from grafana_foundation_sdk.models.dashboard import Dashboard

COLOURS: Final = {
    "none": "#8E8E8E",
    "static": "#8AB8FF",
    "pending": "#FADE2A",
    "progressing": "#3274D9",
    "paused": "#FF9830",
    "promoted": "#56A64B",
    "rolled_back": "#E02F44",
}
PAIR: Final = "prompt, version, against"
AGAINST: Final = f"{BY_VERSION} against {{{{against}}}}"


def build() -> Dashboard:
    """The dashboard."""
    return dashboard(
        "softprompt-rollout",
        "Soft prompts: rollout",
        "Weights, candidate against baseline, the shadow, and what the controller does.",
        [
            ("Where it stands", _state()),
            ("Candidate against baseline", _arms()),
            ("Shadow", _shadow()),
            ("Not as drawn", _aside()),
        ],
    )


def _state() -> list[Builder[Any]]:
    prompts = matching("prompt")
    return [
        timeline(
            "State",
            "The state of each prompt's rollout; `none` is production alone.",
            Query(states(), "{{prompt}}"),
            [(state.replace("_", " "), COLOURS[state]) for state in STATES],
        ),
        lines(
            "Weights",
            "Share of the split that each version has. All of it is production's without a rollout.",
            "percentunit",
            Query(
                f"avg by (prompt, version) (softprompt_rollout_weight_ratio{matching(*VERSIONS)})"
            ),
            width=12,
            most=1,
            steps=True,
        ),
        lines(
            "Generations behind",
            "How many changes the newest one that any server has read is ahead of what a server's "
            "requests follow. Above 0 for long: versions can't be loaded there.",
            "short",
            Query(
                f"max by (job, prompt) (softprompt_rollout_generation{prompts})\n"
                f"- on (job, prompt) group_right\n"
                f"softprompt_rollout_applied_generation{prompts}",
                "{{prompt}} on {{instance}}",
            ),
            width=12,
            steps=True,
        ),
        bars(
            "Controller's decisions",
            "What the built-in controller did.",
            "short",
            Query(
                counted("controller_decisions_total", "prompt, decision", prompts, STEP),
                "{{prompt}} {{decision}}",
            ),
            width=12,
        ),
    ]


def _arms() -> list[Builder[Any]]:
    requests = by_role("requests_total")
    each = "token_cost_per_trace_usd"
    judged = by_role("eval_results_total")
    return [
        lines("Requests", "Requests of each arm.", "reqps", Query(requests, BY_ROLE)),
        lines(
            "Error rate",
            "Share of requests that failed through no fault of the client.",
            "percentunit",
            Query(ratio(by_role("request_errors_total"), requests), BY_ROLE, exemplars=True),
        ),
        lines(
            "Failed evaluations",
            "Share of evaluators' verdicts that are `fail`.",
            "percentunit",
            Query(
                ratio(or_zero(by_role("eval_results_total", result="fail"), judged), judged),
                BY_ROLE,
            ),
        ),
        *(
            lines(title, description, "s", Query(quantile_by_role(q, m), BY_ROLE, exemplars=True))
            for title, description, q, m in (
                (
                    "Time to first token p95",
                    "Seconds from arrival to the first token. Right to a factor of 1.4.",
                    0.95,
                    "time_to_first_token_seconds",
                ),
                (
                    "Time to first token p99",
                    "Seconds from arrival to the first token. Right to a factor of 1.4.",
                    0.99,
                    "time_to_first_token_seconds",
                ),
                (
                    "Time to the end p95",
                    "Seconds from arrival to the last token. Longer answers take longer.",
                    0.95,
                    "request_duration_seconds",
                ),
            )
        ),
        lines(
            "Output tokens",
            "Generated tokens, on average over the requests of the time.",
            "short",
            Query(ratio(by_role("output_tokens_total"), requests), BY_ROLE),
        ),
        lines(
            "Cost per answer",
            "USD of a whole answer, on average over the answers of the time.",
            "currencyUSD",
            Query(ratio(by_role(f"{each}_sum"), by_role(f"{each}_count")), BY_ROLE),
        ),
        lines(
            "Thumbs down",
            "Per request of the time. Feedback comes later than its answer.",
            "percentunit",
            Query(ratio(by_role("feedback_total", kind="thumbs_down"), requests), BY_ROLE),
        ),
    ]


def _shadow() -> list[Builder[Any]]:
    pairs = rate("shadow_pairs_total", PAIR, seen=SHADOWS)
    other = rate("shadow_pairs_total", PAIR, seen=SHADOWS, result="mismatch")
    nats = "shadow_divergence_nats"
    return [
        lines(
            "Copies",
            "Requests that were drawn for the shadow.",
            "reqps",
            Query(rate("shadow_offered_total", PAIR, seen=SHADOWS), AGAINST),
        ),
        bars(
            "Copies that came to nothing",
            "By cause. With many, pairs are no fair sample of the traffic.",
            "reqps",
            Query(rate("shadow_shed_total", "cause", seen=SHADOWS), "{{cause}}"),
        ),
        lines(
            "Other answers",
            "Share of compared answers that are not the user's, to the letter. "
            "Sampled answers differ from themselves, too.",
            "percentunit",
            Query(ratio(other, pairs), AGAINST),
        ),
        *(
            lines(
                f"Divergence p{q * 100:.0f}",
                "How much less likely the shadow finds the user's answer, in nats per token: at "
                "0.1, about 10 % less. Right to a factor of 2.",
                "short",
                Query(quantile(q, nats, PAIR, seen=SHADOWS), AGAINST),
            )
            for q in (0.5, 0.9, 0.99)
        ),
    ]


def _aside() -> list[Builder[Any]]:
    prompts = matching("prompt")
    return [
        bars(
            "Fallbacks",
            "Requests whose arm was not resident, so that another answered, by that arm.",
            "short",
            Query(counted("fallbacks_total", "prompt, arm", prompts), "{{prompt}}@{{arm}}"),
            width=12,
        ),
        bars(
            "Refusals",
            "Requests that were refused before a version was chosen, by code.",
            "short",
            Query(counted("refusals_total", "prompt, code", prompts), "{{prompt}} {{code}}"),
            width=12,
        ),
    ]
