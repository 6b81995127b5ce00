"""Everything that may happen, told to the project's real metrics, and a page that shows them."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import replace

from measured import TARIFF, Measured
from prometheus_client import start_http_server
from rollout.events import answer, event
from router.catalogues import arms, rollout, snapshot

from softprompt_serve.registry.snapshot import Snapshot
from softprompt_serve.rollout.progress import ACTOR
from softprompt_serve.telemetry.events import (
    Applied,
    Evaluation,
    Feedback,
    Loaded,
    Operation,
    Refusal,
    RequestEvent,
    Seen,
    ShadowEvent,
    TraceRef,
)
from softprompt_serve.telemetry.request_metrics import EVALUATORS

TRACE = TraceRef("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
DOCUMENT = {"arms": arms(v1=90, v2=10), "shadow": {"version": "v3", "sample": 0.5}}
PLACES = (("default", "default"), ("regulated", "default"), ("default", "planner"))
WORKER = {"bank": True, "resident": {"d": 40}, "capacity_rows": 64, "used_rows": 40}


def routed() -> Snapshot:
    """`support` with v1 (production), v2 (candidate) and v3, which shadows."""
    return snapshot(routed=rollout(DOCUMENT))


class Traffic:
    """Mixed traffic in rounds, each of which has some of everything."""

    def __init__(self) -> None:
        self.measured = Measured(prices=TARIFF)
        self.measured.emit(Seen(routed()), Applied(routed()))
        self.bank()

    def bank(self, *absent: str) -> None:
        """The workers were asked; these versions are not resident."""
        status = {**WORKER, "slab_bytes": 64 * 16}
        self.measured.metrics.bank([status], lambda v: v.version not in absent, routed())

    def round(self) -> None:
        """One of each place, version and outcome, and whatever else is told of."""
        for (cohort, route), version in itertools.product(PLACES, ("v1", "v2")):
            for slow in range(4):
                self.measured.emit(asked(version, cohort, route, ttft=0.05 * 2**slow))
            given = answer(version, cohort=cohort, route=route, trace=TRACE)
            self.measured.emit(
                Feedback(given, "thumbs_up"),
                Feedback(given, "thumbs_down"),
                Evaluation(given, "tone", passed=True),
                Evaluation(given, "tone", passed=version == "v1"),
            )
        first = answer("v1", trace=TRACE)
        many = (Evaluation(first, f"evaluation-{n}", passed=True) for n in range(EVALUATORS))
        self.measured.emit(*many)  # one more than have a name of their own: `tone` is there
        failed = asked("v2", "default", "default", ttft=None)
        self.measured.emit(
            replace(failed, status=500, error="engine_error"),
            replace(failed, status=499, error="cancelled"),
            replace(failed, decision=replace(failed.decision, passed_over="v3")),
            replace(asked("v2", "default", "default"), lease_wait_seconds=0.1),
            Refusal("support", "version_not_found"),
            Loaded("d", "blob", 0.2, evicted=1),
            Loaded("e", "host", 0.02),
            Loaded("f", "blob", 0.2, error="bank_full"),
            *(changed(name) for name in ("import", "alias", "weights", "promote", "rollback")),
            *(changed(name) for name in ("evaluation", "policy", "token_create")),
            *(changed(name, actor=ACTOR) for name in ("advance", "pause", "resume", "promote")),
            changed("load", error="bank_full"),
            *(shadowed(stage) for stage in ("offered", "compared", "scored", "shed")),
        )
        self.measured.metrics.dropped("span", "queue_full")


def asked(version: str, cohort: str, route: str, ttft: float | None = 0.1) -> RequestEvent:
    """An answer with a trace; without a first token, one that never came so far."""
    found = event(version, cohort=cohort, ttft_seconds=ttft, trace=TRACE)
    decision = replace(found.decision, route=route)
    if ttft is None:
        return replace(found, decision=decision, output_tokens=0)
    return replace(
        found,
        decision=decision,
        e2e_seconds=ttft * 4,
        queue_seconds=ttft / 4,
        prefill_seconds=ttft / 2,
        cached_tokens=10,
    )


def changed(name: str, actor: str = "ada", error: str | None = None) -> Operation:
    return Operation(name, "support", "v2", actor, started_at=0.0, seconds=0.3, error=error)


def shadowed(stage: str) -> ShadowEvent:
    told = ShadowEvent("support", "default", "v3", "v1", stage)  # type: ignore[arg-type]
    if stage == "shed":
        return replace(told, cause="busy")
    return replace(told, matched=False, divergence=0.2)


@contextlib.contextmanager
def page(traffic: Traffic) -> Iterator[str]:
    """Show the metrics over HTTP; yields host and port."""
    server, thread = start_http_server(0, "127.0.0.1", traffic.measured.registry)
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
