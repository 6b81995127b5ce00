"""One plain value per finished request, and those who listen to them.

Listeners are called in turn, in the request's own task, after its last byte: each must only
count or enqueue. One that fails is logged and hinders neither the request nor the others.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from softprompt_serve.router.choose import Decision

logger = logging.getLogger(__name__)


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


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request for a prompt that was refused before a version was chosen.

    Attributes:
        prompt: the prompt's name.
        code: the error's stable code, such as ``arm_not_resident``.
    """

    prompt: str
    code: str


class Events:
    """Hands each event to all listeners."""

    def __init__(self) -> None:
        """Nobody listens yet."""
        self._listeners: list[Callable[[RequestEvent], None]] = []
        self._refusal_listeners: list[Callable[[Refusal], None]] = []

    def listen(self, listener: Callable[[RequestEvent], None]) -> None:
        """Call ``listener`` with each event from now on."""
        self._listeners.append(listener)

    def listen_to_refusals(self, listener: Callable[[Refusal], None]) -> None:
        """Call ``listener`` with each refusal from now on."""
        self._refusal_listeners.append(listener)

    def emit(self, event: RequestEvent) -> None:
        """Tell everyone that a request has ended."""
        _tell(self._listeners, event)

    def refuse(self, refusal: Refusal) -> None:
        """Tell everyone that a request was refused."""
        _tell(self._refusal_listeners, refusal)


def _tell(listeners: list[Callable[[Any], None]], event: object) -> None:
    for listener in listeners:
        try:
            listener(event)
        except Exception:
            logger.exception("A listener of request events failed.")
