"""What one request's answers were, noted as they pass: tokens, times, how they ended.

The request's own task is the only writer. :class:`~softprompt_serve.server.scope.ScopeMiddleware`
makes one :class:`~softprompt_serve.telemetry.events.RequestEvent` of it at the end.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from softprompt_serve.telemetry.events import RequestEvent

if TYPE_CHECKING:
    from softprompt_serve.router.choose import Decision

CLIENT_CLOSED = 499
"""The status that is noted when the client went away before the answer was complete."""

_ERRORS_FROM = 400


class Record:
    """Counts over all engine inputs of one request (a batch or a tool loop has several)."""

    __slots__ = (
        "_first",
        "_started",
        "cached_tokens",
        "finish_reasons",
        "output_tokens",
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

    def latency(self) -> tuple[float | None, float]:
        """Seconds from arrival to the first token, if there was one, and until now."""
        ttft = None if self._first is None else self._first - self._started
        return ttft, time.perf_counter() - self._started

    def event(self, decision: Decision, status: int, error: str | None) -> RequestEvent:
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
        )
