"""Rollouts as the API answers them, for the tables and for servers that follow a script."""

from __future__ import annotations

from typing import Any

Data = dict[str, Any]

SPEC: Data = {
    "arms": [
        {"version": "v1", "weight": 100, "alias": "production"},
        {"version": "v2", "weight": 0, "alias": "canary"},
    ],
    "rules": [
        {
            "name": "lawyers",
            "match": {"cohort": ["regulated", "multilingual"], "route": ["planner"]},
            "version": "v1",
        },
        {
            "name": "half",
            "match": {
                "tools": True,
                "headers": {"x-tier": ["gold", "silver"]},
                "visible_tokens": {"min": 10, "max": 500},
            },
            "split": [{"version": "v1", "weight": 50}, {"version": "v2", "weight": 50}],
        },
    ],
    "shadow": {
        "version": "v3",
        "sample": 0.1,
        "mode": "generate",
        "max_concurrency": 2,
        "max_tokens_per_second": 500.0,
        "timeout_seconds": 60.0,
    },
    "steps": [
        {"weight": 1, "min_requests": 100, "min_duration_seconds": 60.0},
        {"weight": 10, "min_requests": 100, "min_duration_seconds": 60.0},
        {"weight": 50, "min_requests": 1000, "min_duration_seconds": 0.0},
    ],
    "gates": [],
}


GATES: list[Data] = [
    {"metric": "ttft", "quantile": 0.99, "max_ratio": 1.2},
    {"metric": "error_rate", "max": 0.05, "cohorts": ["regulated"]},
]


def arm(version: str, n: int, estimate: float | None, low: float, high: float | None) -> Data:
    return {"version": version, "n": n, "estimate": estimate, "low": low, "high": high}


FINDINGS: Data = {
    "action": "hold",
    "reason": "Step 2 of 3 needs 43 more answers.",
    "trouble": None,
    "candidate": "v2",
    "baseline": "v1",
    "answers": {"v1": 513, "v2": 57},
    "gates": [
        {
            "gate": "ttft p99 max_ratio 1.2",
            "metric": "ttft",
            "quantile": 0.99,
            "unit": "s",
            "bound": "max_ratio",
            "limit": 1.2,
            "cohort": None,
            "candidate": arm("v2", 57, 0.4312, 0.21, None),
            "baseline": arm("v1", 513, 0.2, 0.18, 0.25),
            "alpha": 0.0125,
            "evidence": 3.217,
            "needed": 80.0,
            "broken": False,
        },
        {
            "gate": "error_rate max 0.05",
            "metric": "error_rate",
            "quantile": None,
            "unit": "share",
            "bound": "max",
            "limit": 0.05,
            "cohort": "regulated",
            "candidate": arm("v2", 1200, 0.125, 0.0807, 0.17),
            "baseline": arm("v1", 0, None, 0.0, 1.0),
            "alpha": 0.025,
            "evidence": 1e9,
            "needed": 40.0,
            "broken": True,
        },
    ],
}


def replica(name: str, generation: int = 12, *resident: str) -> Data:
    held = resident or ("v1", "v2", "v3")
    return {
        "replica": f"id-of-{name}",
        "name": name,
        "seen_seconds_ago": 0.31,
        "generation": generation,
        "resident": list(held),
        "since": "2026-11-23T21:00:00.120Z",
        "applied": generation == 12 and len(held) == 3,
    }


def rollout(*replicas: Data, **changes: Any) -> Data:
    """Generation 12 of `support`, in the second of three steps."""
    return {
        "prompt": "support",
        "generation": 12,
        "epoch": 9,
        "state": "progressing",
        "reason": "v2 gets 10 of 100: step 2 of 3.",
        "spec": SPEC,
        "weights": {"v1": 90, "v2": 10},
        "production": "v1",
        "candidate": "v2",
        "step": {
            "index": 1,
            "of": 3,
            "weight": 10,
            "since_seconds": 12.34,
            "requests": 57,
            "min_requests": 100,
            "min_duration_seconds": 60.0,
        },
        "findings": None,
        "findings_seconds_ago": None,
        "updated_at": "2026-11-23T21:00:00.000Z",
        "updated_by": "alice",
        "applied": bool(replicas) and all(one["applied"] for one in replicas),
        "observed": list(replicas),
        "note": None,
        **changes,
    }


def ended(state: str, *replicas: Data) -> Data:
    weights = {"v1": 0, "v2": 100} if state == "promoted" else {"v1": 100}
    return rollout(*replicas, state=state, reason="Because.", step=None, weights=weights)


NONE: Data = rollout(
    generation=0,
    epoch=0,
    state="none",
    reason="",
    spec=None,
    weights={"v1": 100},
    candidate=None,
    step=None,
    updated_at=None,
    updated_by=None,
    applied=True,
)
