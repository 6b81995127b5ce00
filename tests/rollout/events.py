"""Request events, and answers that people speak of later, for tests of what is counted."""

from __future__ import annotations

from typing import Any

from router.catalogues import EPOCH, GENERATION, version

from softprompt_serve.router.choose import Decision
from softprompt_serve.telemetry.events import Answered, RequestEvent


def event(
    answered_by: str = "v2",
    *,
    reason: Any = "split",
    generation: int = GENERATION,
    epoch: int = EPOCH,
    cohort: str = "default",
    **fields: Any,
) -> RequestEvent:
    """An answer of `support@v2`: 0.2 s to the first token, 1 s in all, 20 + 100 tokens in, 50 out."""
    decision = Decision(
        version(answered_by), reason, answered_by, generation, epoch=epoch, cohort=cohort
    )
    given: dict[str, Any] = {
        "request_id": "a-request",
        "status": 200,
        "error": None,
        "started_at": 0.0,
        "ttft_seconds": 0.2,
        "e2e_seconds": 1.0,
        "visible_tokens": 100,
        "virtual_tokens": 20,
        "cached_tokens": 0,
        "output_tokens": 50,
        "finish_reasons": ("stop",),
    }
    return RequestEvent(decision=decision, **(given | fields))


def answer(version: str = "v2", **fields: Any) -> Answered:
    """An answer of `support` that the split had chosen `version` for."""
    given: dict[str, Any] = {
        "response_id": "chatcmpl-1",
        "trace": None,
        "prompt": "support",
        "version": version,
        "digest": "d",
        "arm": version,
        "cohort": "default",
        "route": "default",
        "generation": GENERATION,
        "epoch": EPOCH,
        "compared": True,
        "at": 0.0,
    }
    return Answered(**(given | fields))
