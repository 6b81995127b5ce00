"""PromQL of the dashboards, built from a metric's name and what it is seen by.

Names of metrics are those of ``docs/metrics.md`` without ``softprompt_``.
"""

from __future__ import annotations

from typing import Final

RATE: Final = "$__rate_interval"
RANGE: Final = "$__range"
STEP: Final = "$__interval"

VERSION: Final = "prompt, version"
"""What most panels compare."""

ARM: Final = "job, instance, prompt, version, arm"
"""Which series of requests a series of ``rollout_arm_info`` is about; ``job`` for servers that are
scraped twice."""

STATES: Final = ("none", "static", "pending", "progressing", "paused", "promoted", "rolled_back")
"""As ``softprompt_rollout_state`` names them; a state's number on the timeline is its place here."""


def matching(*labels: str, **exactly: str) -> str:
    """A selector by the variables of these names, and by values that are given."""
    chosen = [f'{label}=~"${label}"' for label in labels]
    return "{" + ", ".join([*chosen, *(f'{k}="{v}"' for k, v in exactly.items())]) + "}"


REQUESTS: Final = ("base_model", "prompt", "version", "cohort", "route")
SHADOWS: Final = ("base_model", "prompt", "version", "cohort")
VERSIONS: Final = ("prompt", "version")


def rate(
    metric: str,
    by: str = VERSION,
    *,
    seen: tuple[str, ...] = REQUESTS,
    over: str = RATE,
    **exactly: str,
) -> str:
    """How often per second a counter counted, by some labels."""
    return f"sum by ({by}) (rate(softprompt_{metric}{matching(*seen, **exactly)}[{over}]))"


def increase(
    metric: str, by: str, *, seen: tuple[str, ...] = REQUESTS, over: str = RATE, **exactly: str
) -> str:
    """How much a counter counted in that time."""
    return f"sum by ({by}) (increase(softprompt_{metric}{matching(*seen, **exactly)}[{over}]))"


def ratio(part: str, whole: str) -> str:
    """One by the other; nothing, not zero, where there is nothing to divide by."""
    return f"{part}\n/\n({whole} > 0)"


def or_zero(part: str, whole: str) -> str:
    """``part``, and 0 where there is ``whole`` and no ``part`` has been counted yet."""
    return f"({part}\nor\n0 * {whole})"


def quantile(
    q: float,
    metric: str,
    by: str = VERSION,
    *,
    seen: tuple[str, ...] = REQUESTS,
    over: str = RATE,
) -> str:
    """A quantile of a histogram."""
    buckets = rate(f"{metric}_bucket", f"le, {by}" if by else "le", seen=seen, over=over)
    return f"histogram_quantile({q}, {buckets})"


def by_role(metric: str, by: str = "prompt, version, role", **exactly: str) -> str:
    """A counter's rate for the candidate and for the baseline, where they have a share of the split.

    After a promotion the version before is an arm without a share, and would be the candidate.
    """
    return (
        f"sum by ({by}) (\n"
        f"  rate(softprompt_{metric}{matching(*REQUESTS, **exactly)}[{RATE}])\n"
        f"  * on ({ARM}) group_left (role)\n"
        f"  (softprompt_rollout_arm_info{matching(*VERSIONS)} == 1\n"
        "    and on (job, instance, prompt, version) softprompt_rollout_weight_ratio > 0)\n"
        ")"
    )


def quantile_by_role(q: float, metric: str) -> str:
    """A quantile for the candidate and for the baseline."""
    return f"histogram_quantile({q}, {by_role(f'{metric}_bucket', 'le, prompt, version, role')})"


def states() -> str:
    """The state of each prompt's rollout, as its place in :data:`STATES`."""
    coded = (
        f"{number} * max by (prompt, state) "
        f"(softprompt_rollout_state{matching('prompt', state=state)} == 1)"
        for number, state in enumerate(STATES)
    )
    return "max by (prompt) (\n  " + "\n  or\n  ".join(coded) + "\n)"


def here(metric: str) -> str:
    """A gauge of each server that serves a chosen base model."""
    return (
        f"softprompt_{metric}\n* on (job, instance) group_left (base_model)\n"
        f"softprompt_build_info{matching('base_model')}"
    )


def counted(metric: str, by: str, selector: str, over: str = STEP) -> str:
    """Where a counter has grown since the step before, or is there since.

    Counters of changes begin with 1, so that ``increase`` would miss the first. What was not there
    counts if the same server was seen without it, so that a gap in scraping counts nothing.
    """
    counter = f"softprompt_{metric}{selector}"
    return (
        f"sum by ({by}) (\n"
        f"  (({counter} - {counter} offset {over}) > 0)\n"
        f"  or\n"
        f"  ({counter} unless {counter} offset {over}\n"
        f"    and on (job, instance) softprompt_build_info offset {over})\n"
        ")"
    )
