"""Versions side by side: latency, errors, tokens, cost and feedback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dashboards.frame import dashboard
from dashboards.panels import BY_VERSION, Query, bars, by_class, lines, table
from dashboards.queries import RANGE, VERSION, increase, or_zero, quantile, rate, ratio

if TYPE_CHECKING:
    from grafana_foundation_sdk.cog.builder import Builder
    from grafana_foundation_sdk.models.dashboard import Dashboard

QUANTILES: Final = (0.5, 0.95, 0.99)
LATENCIES: Final = {
    "time_to_first_token_seconds": ("Time to first token", "from arrival to the first token"),
    "time_per_output_token_seconds": ("Time between tokens", "between tokens after the first"),
    "request_duration_seconds": ("Time to the end", "from arrival to the last token"),
}
VERDICTS: Final = f"{VERSION}, evaluation"
PER_ANSWER: Final = "on average over the requests of the time."


def build() -> Dashboard:
    """The dashboard."""
    return dashboard(
        "softprompt-versions",
        "Soft prompts: versions side by side",
        "Latency, errors, tokens, cost and feedback of each version of a prompt.",
        [
            ("Side by side", [_side_by_side()]),
            ("Traffic and errors", _traffic()),
            ("Latency", _latency()),
            ("Tokens and cost", _tokens()),
            ("What people and evaluators say", _said()),
        ],
    )


def _side_by_side() -> Builder[Any]:
    requests = rate("requests_total", over=RANGE)
    first, whole = "time_to_first_token_seconds", "request_duration_seconds"
    failed = rate("eval_results_total", over=RANGE, result="fail")
    judged = rate("eval_results_total", over=RANGE)
    return table(
        "The whole time shown",
        "One row for each version that was asked. A cell is empty where nothing was measured: "
        "a cost needs a price for every token.",
        {
            "Requests": ("short", increase("requests_total", VERSION, over=RANGE)),
            "Errors": ("percentunit", ratio(rate("request_errors_total", over=RANGE), requests)),
            "First token p50": ("s", quantile(0.5, first, over=RANGE)),
            "First token p99": ("s", quantile(0.99, first, over=RANGE)),
            "End p99": ("s", quantile(0.99, whole, over=RANGE)),
            "Visible tokens": ("short", ratio(rate("visible_tokens_total", over=RANGE), requests)),
            "Output tokens": ("short", ratio(rate("output_tokens_total", over=RANGE), requests)),
            "Cost": ("currencyUSD", ratio(rate("cost_usd_total", over=RANGE), requests)),
            "Thumbs down": (
                "percentunit",
                ratio(rate("feedback_total", over=RANGE, kind="thumbs_down"), requests),
            ),
            "Evaluations failed": ("percentunit", ratio(or_zero(failed, judged), judged)),
        },
    )


def _traffic() -> list[Builder[Any]]:
    requests = rate("requests_total")
    return [
        lines("Requests", "Requests that the version was chosen for.", "reqps", Query(requests)),
        lines(
            "Error rate",
            "Share of requests that failed through no fault of the client. A gap is no traffic.",
            "percentunit",
            Query(ratio(rate("request_errors_total"), requests), exemplars=True),
        ),
        by_class(
            bars(
                "Answers by status",
                "HTTP statuses of all answers; 499 is a client that went away.",
                "reqps",
                Query(rate("requests_total", "status"), "{{status}}"),
            )
        ),
    ]


def _latency() -> list[Builder[Any]]:
    panels: list[Builder[Any]] = [
        lines(
            f"{title} p{q * 100:.0f}",
            f"Seconds {what}, p{q * 100:.0f}. Right to a factor of 1.4, as buckets are that wide. "
            "Dots are single requests that lead to their trace.",
            "s",
            Query(quantile(q, metric), exemplars=True),
        )
        for metric, (title, what) in LATENCIES.items()
        for q in QUANTILES
    ]
    for metric, title, what in (
        ("queue_seconds", "Queue p95", "in the engine's queue"),
        ("prefill_seconds", "Prefill p95", "from the queue to the first token"),
    ):
        description = f"Seconds {what}, p95. Right to a factor of 2."
        query = Query(quantile(0.95, metric), exemplars=True)
        panels.append(lines(title, description, "s", query, width=12))
    return panels


def _tokens() -> list[Builder[Any]]:
    requests = rate("requests_total")
    prompt = f"({rate('visible_tokens_total')} + {rate('virtual_tokens_total')})"
    each = "token_cost_per_trace_usd"
    return [
        lines(
            "Visible prompt size",
            f"Prompt tokens that a person could read, {PER_ANSWER}",
            "short",
            Query(ratio(rate("visible_tokens_total"), requests)),
        ),
        lines(
            "Virtual tokens",
            f"Prompt tokens that the soft prompt added, {PER_ANSWER}",
            "short",
            Query(ratio(rate("virtual_tokens_total"), requests)),
        ),
        lines(
            "Output tokens",
            f"Generated tokens, {PER_ANSWER}",
            "short",
            Query(ratio(rate("output_tokens_total"), requests)),
        ),
        lines(
            "Prefix cache",
            "Share of prompt tokens, virtual ones included, that the prefix cache had.",
            "percentunit",
            Query(ratio(rate("cached_tokens_total"), prompt)),
            most=1,
        ),
        lines(
            "Cost per answer",
            "USD of a whole answer, on average over the answers of the time.",
            "currencyUSD",
            Query(ratio(rate(f"{each}_sum"), rate(f"{each}_count"))),
        ),
        lines(
            "Cost per answer p95",
            "USD that 95 % of whole answers stay below. Right to a factor of 2.",
            "currencyUSD",
            Query(quantile(0.95, each), exemplars=True),
        ),
        lines(
            "Cost per hour",
            "USD per hour at the rate of the time, failed and cancelled requests included.",
            "currencyUSD",
            Query(f"3600 * {rate('cost_usd_total')}"),
            width=24,
        ),
    ]


def _said() -> list[Builder[Any]]:
    requests = rate("requests_total")
    failed = rate("eval_results_total", VERDICTS, result="fail")
    judged = rate("eval_results_total", VERDICTS)
    cohort_failed = rate("eval_results_total", f"{VERSION}, cohort", result="fail")
    cohort_judged = rate("eval_results_total", f"{VERSION}, cohort")
    return [
        lines(
            "Thumbs down",
            "Per request of the time. Feedback comes later than its answer.",
            "percentunit",
            Query(ratio(rate("feedback_total", kind="thumbs_down"), requests), exemplars=True),
        ),
        lines(
            "Thumbs up",
            "Per request of the time. Feedback comes later than its answer.",
            "percentunit",
            Query(ratio(rate("feedback_total", kind="thumbs_up"), requests)),
        ),
        bars(
            "Feedback per minute",
            "What users did about answers of the chosen versions, once for each answer and kind, by kind.",
            "short",
            Query(f"60 * {rate('feedback_total', 'kind')}", "{{kind}}"),
        ),
        lines(
            "Failed evaluations",
            "Share of an evaluator's verdicts that are `fail`.",
            "percentunit",
            Query(
                ratio(or_zero(failed, judged), judged),
                f"{BY_VERSION} {{{{evaluation}}}}",
                exemplars=True,
            ),
            width=12,
        ),
        lines(
            "Failed evaluations by cohort",
            "Share of all verdicts that are `fail`, by cohort.",
            "percentunit",
            Query(
                ratio(or_zero(cohort_failed, cohort_judged), cohort_judged),
                f"{BY_VERSION} {{{{cohort}}}}",
            ),
            width=12,
        ),
    ]
