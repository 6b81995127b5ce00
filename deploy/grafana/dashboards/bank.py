"""The bank of soft prompts on the workers, and swaps of versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dashboards.frame import dashboard
from dashboards.panels import Query, bars, lines, number, timeline
from dashboards.queries import (
    VERSION,
    VERSIONS,
    counted,
    here,
    matching,
    quantile,
)

if TYPE_CHECKING:
    from grafana_foundation_sdk.cog.builder import Builder
    from grafana_foundation_sdk.models.dashboard import Dashboard

SERVER: Final = "{{instance}}"


def build() -> Dashboard:
    """The dashboard."""
    return dashboard(
        "softprompt-bank",
        "Soft prompts: bank and swap",
        "How full the bank is, what is loaded and for how long it takes, and swaps of versions.",
        [
            ("Bank", _bank()),
            ("Loads and waiting", _loads()),
            ("Swaps and other changes", _swaps()),
            ("The server", _server()),
        ],
    )


def _bank() -> list[Builder[Any]]:
    full = f"max({here('bank_used_rows / (softprompt_bank_capacity_rows > 0)')})"
    return [
        number(
            "Rows taken", "Of the fullest server.", "percentunit", Query(full, "taken"), width=6
        ),
        number(
            "Resident versions",
            "Tensors that the server with the most holds.",
            "short",
            Query(f"max({here('bank_resident_versions')})", "versions"),
            width=6,
        ),
        number(
            "Memory",
            "Of one worker that resident tensors take. The bank itself is reserved at start.",
            "bytes",
            Query(f"max({here('bank_bytes')})", "bytes"),
            width=6,
        ),
        number(
            "Servers",
            "That were scraped.",
            "short",
            Query(f"count(softprompt_build_info{matching('base_model')})", "servers"),
            width=6,
        ),
        lines(
            "Rows",
            "Rows of the bank that are taken, on the worker with the most, and all that it has.",
            "short",
            Query(here("bank_used_rows"), f"taken {SERVER}"),
            Query(here("bank_capacity_rows"), f"all {SERVER}"),
            width=12,
            steps=True,
        ),
        timeline(
            "Resident",
            "Whether every server can answer with the version at once, for versions that a prompt's "
            "own name can mean. A text is always resident.",
            Query(f"min by (prompt, version) ({_resident()})"),
            [("not resident", "#E02F44"), ("resident", "#56A64B")],
        ),
    ]


def _resident() -> str:
    """What is resident, and what is not though it has a share of the traffic."""
    seen = f"softprompt_version_resident{matching(*VERSIONS)}"
    asked = "softprompt_rollout_weight_ratio > 0"
    return f"\n  {seen} == 1\n  or\n  {seen} and on (job, instance, prompt, version) {asked}\n"


def _loads() -> list[Builder[Any]]:
    source = "{{source}}"
    return [
        bars(
            "Loads",
            "Tensors that were made resident, or could not be, by where they came from: the "
            "workers' host memory or the blob store.",
            "short",
            Query(counted("bank_loads_total", "source, result", ""), f"{source} {{{{result}}}}"),
        ),
        lines(
            "Load time p95",
            "Seconds that a load took. Right to a factor of 2.",
            "s",
            Query(quantile(0.95, "bank_load_seconds", "source", seen=()), source),
        ),
        bars(
            "Evictions",
            "Versions that had to leave for another.",
            "short",
            Query(counted("bank_evictions_total", "instance", ""), SERVER),
        ),
        bars(
            "Requests that waited",
            "Requests that found their version not resident and waited for it.",
            "short",
            Query(counted("bank_misses_total", VERSION, matching(*VERSIONS))),
        ),
        lines(
            "Waiting time",
            "Seconds that such requests waited. Right to a factor of 2.",
            "s",
            *(
                Query(quantile(q, "bank_lease_wait_seconds", "", seen=()), f"p{q * 100:.0f}", dots)
                for q, dots in ((0.5, False), (0.95, True))
            ),
        ),
        lines(
            "Time to first token p95",
            "Of all requests, to see whether loads and swaps are felt.",
            "s",
            Query(quantile(0.95, "time_to_first_token_seconds")),
        ),
    ]


def _swaps() -> list[Builder[Any]]:
    return [
        bars(
            "Changes",
            "Changes that were made, as they were. `alias` is a swap.",
            "short",
            Query(
                counted("operations_total", "operation", '{prompt=~"$prompt", result="ok"}'),
                "{{operation}}",
            ),
        ),
        lines(
            "Time of a change p95",
            "Seconds until every request at that server followed it. Right to a factor of 2.",
            "s",
            Query(quantile(0.95, "operation_seconds", "operation", seen=()), "{{operation}}"),
        ),
        bars(
            "Changes that failed",
            "By what was asked and the error's code.",
            "short",
            Query(
                counted(
                    "operations_total", "operation, result", '{prompt=~"$prompt", result!="ok"}'
                ),
                "{{operation}} {{result}}",
            ),
        ),
    ]


def _server() -> list[Builder[Any]]:
    return [
        lines(
            "What runs",
            "Servers by version, vLLM and base model.",
            "short",
            Query(
                f"count by (version, vllm, base_model, base_revision) "
                f"(softprompt_build_info{matching('base_model')})",
                "{{version}}, vLLM {{vllm}}, {{base_model}} {{base_revision}}",
            ),
            steps=True,
        ),
        bars(
            "Telemetry that was lost",
            "Spans and the like that were dropped, by reason.",
            "short",
            Query(counted("telemetry_dropped_total", "what, reason", ""), "{{what}} {{reason}}"),
        ),
        bars(
            "Counted as other",
            "How often there was no room for another series.",
            "short",
            Query(counted("metrics_collapsed_total", "instance", ""), SERVER),
        ),
    ]
