"""Let vLLM's processes sleep while they wait for one another, where a setting says so.

For a second after the last message a reader of vLLM's queue in shared memory asks for the next without a
pause. With a core for each process that is the quickest way. With fewer cores than processes it takes
the time in which the others would have brought the message: on two, an API server, an engine and a
worker got half as much done.
"""

from __future__ import annotations

import time
from functools import wraps
from typing import Any, Final

SECONDS: Final = 0.0002
"""A nap between two looks: little beside a step of a model on a CPU, and long beside a look."""


def patch_queue(condition: type[Any]) -> None:
    """Sleep before each look but the first."""
    look_again = condition.wait

    @wraps(look_again)
    def wait(self: Any, timeout_ms: int | None = None) -> None:
        time.sleep(SECONDS)
        look_again(self, timeout_ms)

    condition.wait = wait
