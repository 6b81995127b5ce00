"""One line in the log for each request for a prompt: ids, version, times, tokens; no text of it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from softprompt_serve.telemetry.events import Refusal, RequestEvent
from softprompt_serve.telemetry.lines import Line, seconds

if TYPE_CHECKING:
    from softprompt_serve.telemetry.channel import Events
    from softprompt_serve.telemetry.lines import Field

logger = logging.getLogger(__name__)

ENDED: Final = "request ended"
REFUSED: Final = "request refused"
_DIGEST: Final = 12


def listen_to(events: Events) -> None:
    """Log requests from now on (``SOFTPROMPT_LOG_REQUESTS``)."""
    events.listen(RequestEvent, ended)
    events.listen(Refusal, refused)


def ended(event: RequestEvent) -> None:
    """A version was chosen for it, and it was answered, or not."""
    if not logger.isEnabledFor(logging.INFO):
        return
    decision, version, trace = event.decision, event.decision.version, event.trace
    fields: dict[str, Field] = {
        "request_id": event.request_id or None,
        "trace_id": None if trace is None else trace.trace_id,
        "span_id": None if trace is None else trace.span_id,
        "prompt": version.prompt,
        "version": version.version,
        "arm": decision.arm,
        "cohort": decision.cohort,
        "route": decision.route,
        "response_id": event.response_id or None,
        "digest": version.digest[:_DIGEST],
        "reason": decision.reason,
        "generation": decision.generation,
        "path": event.path or None,
        "status": event.status,
        "error": event.error,
        "e2e_seconds": seconds(event.e2e_seconds),
        "ttft_seconds": seconds(event.ttft_seconds),
        "queue_seconds": seconds(event.queue_seconds),
        "lease_wait_seconds": seconds(event.lease_wait_seconds),
        "visible_tokens": event.visible_tokens,
        "virtual_tokens": event.virtual_tokens,
        "cached_tokens": event.cached_tokens,
        "output_tokens": event.output_tokens,
        "finish_reasons": event.finish_reasons or None,
    }
    logger.info(Line(ENDED, fields))


def refused(event: Refusal) -> None:
    """It ended before a version was chosen."""
    logger.info(Line(REFUSED, {"prompt": event.prompt, "error": event.code}))
