"""Those who listen to what happens.

Listeners are called in turn, by whoever emits: for a request in its own task, after its last byte.
Each must only count or enqueue. One that fails is logged and hinders neither the emitter nor the
others. Everything is emitted on the event loop.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

Event = TypeVar("Event")


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
