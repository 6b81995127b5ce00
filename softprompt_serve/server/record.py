"""What one request's answers were, noted as they pass: tokens, times, how they ended.

The request's own task is the only writer. :class:`~softprompt_serve.server.scope.ScopeMiddleware`
makes one :class:`~softprompt_serve.telemetry.events.RequestEvent` of it at the end.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from softprompt_serve.telemetry.events import COMPLETIONS, RESPONSES, RequestEvent, operation_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from softprompt_serve.router.choose import Decision
    from softprompt_serve.telemetry.events import TraceRef

CLIENT_CLOSED = 499
"""The status that is noted when the client went away before the answer was complete."""

_ERRORS_FROM = 400
_NUMBERED = {COMPLETIONS: "-", RESPONSES: "_"}
"""Routes whose inputs get ids of their own: the answer's, this, and a number (vLLM 0.32)."""


class Record:
    """Counts over all engine inputs of one request (a batch or a tool loop has several)."""

    __slots__ = (
        "_first",
        "_started",
        "cached_tokens",
        "finish_reasons",
        "lease_wait_seconds",
        "output_tokens",
        "prefill_seconds",
        "queue_seconds",
        "request_id",
        "started_at",
        "virtual_tokens",
        "visible_tokens",
    )

    def __init__(self) -> None:
        """The request has just arrived."""
        self.started_at = time.time()
        self._started = time.perf_counter()
        self._first: float | None = None
        self.request_id = ""
        self.visible_tokens = 0
        self.virtual_tokens = 0
        self.cached_tokens = 0
        self.output_tokens = 0
        self.finish_reasons: list[str] = []
        self.lease_wait_seconds: float | None = None
        self.queue_seconds: float | None = None
        self.prefill_seconds: float | None = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Until the version is resident; the time counts, as the request has none before."""
        began = time.perf_counter()
        try:
            yield
        finally:
            waited = time.perf_counter() - began
            self.lease_wait_seconds = (self.lease_wait_seconds or 0.0) + waited

    def entered(self, request_id: str, prompt_tokens: int, virtual_tokens: int) -> None:
        """An input of ``prompt_tokens`` in all enters the engine."""
        self.request_id = self.request_id or request_id
        self.visible_tokens += prompt_tokens - virtual_tokens
        self.virtual_tokens += virtual_tokens

    def saw(self, output: Any) -> None:
        """An output of vLLM's passes on its way to the handler (``RequestOutput``)."""
        for choice in output.outputs:
            if choice.finish_reason is not None:
                self.finish_reasons.append(choice.finish_reason)
        if self._first is None:
            self._first = time.perf_counter()
            # An answer in one piece: the engine's client knows when its first token came.
            stats = output.metrics
            if stats is not None and output.finished and stats.first_token_latency > 0:
                arrived = self._started + stats.arrival_time - self.started_at
                self._first = min(self._first, arrived + stats.first_token_latency)

    def left(self, output: Any, tokens: int) -> None:
        """The last output of one input; ``tokens`` were generated for it."""
        self.output_tokens += tokens
        self.cached_tokens += output.num_cached_tokens or 0
        if (stats := output.metrics) is None:
            return
        # The engine core's own clock, in seconds; 0 stands for what never happened.
        queued, scheduled, first = stats.queued_ts, stats.scheduled_ts, stats.first_token_ts
        if queued and scheduled:
            self.queue_seconds = max(self.queue_seconds or 0.0, scheduled - queued)
        if scheduled and first:
            self.prefill_seconds = max(self.prefill_seconds or 0.0, first - scheduled)

    def latency(self) -> tuple[float | None, float]:
        """Seconds from arrival to the first token, if there was one, and until now."""
        ttft = None if self._first is None else self._first - self._started
        return ttft, time.perf_counter() - self._started

    def event(
        self,
        decision: Decision,
        status: int,
        error: str | None,
        *,
        path: str = "",
        trace: TraceRef | None = None,
    ) -> RequestEvent:
        """The request as it ended, now."""
        ttft, e2e = self.latency()
        failed = "error" in self.finish_reasons
        if error is None and (status >= _ERRORS_FROM or failed):
            error = "engine_error" if failed else f"http_{status}"
        return RequestEvent(
            request_id=self.request_id,
            decision=decision,
            status=status,
            error=error,
            started_at=self.started_at,
            ttft_seconds=ttft,
            e2e_seconds=e2e,
            visible_tokens=self.visible_tokens,
            virtual_tokens=self.virtual_tokens,
            cached_tokens=self.cached_tokens,
            output_tokens=self.output_tokens,
            finish_reasons=tuple(self.finish_reasons),
            response_id=_response_id(self.request_id, path),
            queue_seconds=self.queue_seconds,
            prefill_seconds=self.prefill_seconds,
            lease_wait_seconds=self.lease_wait_seconds,
            trace=trace,
            operation=operation_of(path),
            path=path,
        )


def _response_id(request_id: str, path: str) -> str:
    """What the client reads: the engine's id without the number of its input."""
    numbered = _NUMBERED.get(path)
    return request_id if numbered is None else request_id.rpartition(numbered)[0]
