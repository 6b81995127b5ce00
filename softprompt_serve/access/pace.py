"""How often somebody may do something: token buckets, in memory, of one process. Pure.

A bucket holds as much as a minute allows and fills evenly, so that a burst after a pause is let
through and the mean is kept. (RFC 2697 calls it a committed rate with its burst size.)
"""

from __future__ import annotations

import math
from typing import Final

_MINUTE: Final = 60.0
_MOST: Final = 10_000
"""Keys that are remembered; the one that was seen longest ago is forgotten first."""


class Pace:
    """So many times a minute for each key; not safe for threads.

    Args:
        per_minute: how many; None for no limit.
        most: keys that are remembered.
    """

    def __init__(self, per_minute: int | None, most: int = _MOST) -> None:
        self._per_minute = per_minute
        self._most = most
        self._left: dict[str, tuple[float, float]] = {}  # what was left, and when

    def wait(self, key: str, now: float) -> int:
        """Whole seconds until the next time is allowed; 0 if it is now. Takes nothing.

        Args:
            key: who.
            now: seconds of a clock that never goes back.
        """
        if self._per_minute is None:
            return 0
        left = self._now_left(key, now, self._per_minute)
        return 0 if left >= 1.0 else math.ceil((1.0 - left) * _MINUTE / self._per_minute)

    def take(self, key: str, now: float) -> int:
        """Take one time; returns what :meth:`wait` does, and takes nothing unless that is 0."""
        if self._per_minute is None:
            return 0
        seconds = self.wait(key, now)
        if not seconds:
            left = self._now_left(key, now, self._per_minute)
            self._left.pop(key, None)  # so that the dictionary is in the order of the last use
            self._left[key] = (left - 1.0, now)
            if len(self._left) > self._most:
                del self._left[next(iter(self._left))]
        return seconds

    def _now_left(self, key: str, now: float, per_minute: int) -> float:
        left, at = self._left.get(key, (float(per_minute), now))
        return min(float(per_minute), left + (now - at) * per_minute / _MINUTE)
