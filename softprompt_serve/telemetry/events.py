"""What happened, as one plain value each, and those who listen to it.

Listeners are called in turn, by whoever emits: for a request in its own task, after its last byte.
Each must only count or enqueue. One that fails is logged and hinders neither the emitter nor the
others. Everything is emitted on the event loop.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from softprompt_serve.registry.snapshot import Snapshot
    from softprompt_serve.router.choose import Decision

logger = logging.getLogger(__name__)

Event = TypeVar("Event")


@dataclass(frozen=True, slots=True)
class RequestEvent:
    """A request that was answered for a prompt, or failed to be.

    Attributes:
        request_id: the engine's id of it, or "" if it never came that far.
        decision: which version was to answer, and why.
        status: the HTTP status; 499 if the client went away.
        error: a stable code (of ours, or the status's), or None if it was answered in full.
        started_at: Unix time of its arrival.
        ttft_seconds: from arrival to the first token, or None if there was none.
        e2e_seconds: from arrival to the end.
        visible_tokens: prompt tokens without the virtual ones, over all of its engine inputs.
        virtual_tokens: likewise.
        cached_tokens: prompt tokens that the prefix cache had.
        output_tokens: generated tokens.
        finish_reasons: the engine's, one per choice.
    """

    request_id: str
    decision: Decision
    status: int
    error: str | None
    started_at: float
    ttft_seconds: float | None
    e2e_seconds: float
    visible_tokens: int
    virtual_tokens: int
    cached_tokens: int
    output_tokens: int
    finish_reasons: tuple[str, ...]

    @property
    def failed(self) -> bool:
        """Whether the server is to blame: a 5xx, or an answer that ended in an error.

        A bad request (4xx) and a client that went away are nobody's regression.
        """
        return self.status >= 500 or "error" in self.finish_reasons  # noqa: PLR2004 - HTTP

    @property
    def compared(self) -> bool:
        """Whether it counts when arms are compared: the sticky split chose it, nothing else did."""
        return self.decision.reason == "split"

    @property
    def token_seconds(self) -> float | None:
        """Seconds per token after the first, or None if there were not two tokens of one choice."""
        if self.ttft_seconds is None or len(self.finish_reasons) != 1 or self.output_tokens < 2:  # noqa: PLR2004 - two tokens have one gap
            return None
        return max(self.e2e_seconds - self.ttft_seconds, 0.0) / (self.output_tokens - 1)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request for a prompt that was refused before a version was chosen.

    Attributes:
        prompt: the prompt's name.
        code: the error's stable code, such as ``arm_not_resident``.
    """

    prompt: str
    code: str


@dataclass(frozen=True, slots=True)
class Applied:
    """This server serves a new snapshot of the catalogue now."""

    snapshot: Snapshot


class Events:
    """Hands each event to all who listen to its kind."""

    def __init__(self) -> None:
        """Nobody listens yet."""
        self._listeners: defaultdict[type, list[Callable[[Any], None]]] = defaultdict(list)

    def listen(self, kind: type[Event], listener: Callable[[Event], None]) -> None:
        """Call ``listener`` with each event of exactly that kind from now on."""
        self._listeners[kind].append(listener)

    def emit(self, event: object) -> None:
        """Tell everyone who listens to this kind."""
        for listener in self._listeners[type(event)]:
            try:
                listener(event)
            except Exception:
                logger.exception("A listener of %s failed.", type(event).__name__)
