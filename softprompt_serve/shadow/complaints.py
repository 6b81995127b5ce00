"""Says in the log what goes wrong, but not again and again, and without a word of any text."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING, Final

from softprompt_serve.errors import SoftpromptError

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

EVERY_SECONDS: Final = 60.0
_MOST: Final = 100


class Complaints:
    """Logs each kind of error at most once a minute, with how many were like it since."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._said: dict[str, float] = {}
        self._silent: dict[str, int] = {}

    def about(self, what: str, error: BaseException) -> None:
        """Log it by type, code and place: a message could quote what a user wrote."""
        kind = type(error).__name__
        if isinstance(error, SoftpromptError):
            kind = f"{kind} {error.code}"
        key = f"{what}: {kind}"
        now = self._clock()
        if key in self._said and now - self._said[key] < EVERY_SECONDS:
            self._silent[key] = self._silent.get(key, 0) + 1
            return
        if len(self._said) >= _MOST:
            self._said.clear()
            self._silent.clear()
        self._said[key] = now
        more = self._silent.pop(key, 0)
        logger.warning(
            "%s ended with %s%s%s.", what, kind, _place(error), f", {more} more" if more else ""
        )


def _place(error: BaseException) -> str:
    """Where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" at {frames[-1].name}:{frames[-1].lineno}" if frames else ""
