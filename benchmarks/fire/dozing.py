"""The server's command, with processes that sleep while they wait for one another.

For a second after the last message a reader of vLLM's queue in shared memory looks for the next without
a pause. On two cores that takes the time of whoever else has work: the API server, and the client that
holds answers against others. Nothing else is changed, and answers can't be.

    python benchmarks/fire/dozing.py serve MODEL [flags of vllm serve]
"""

from __future__ import annotations

import time
from typing import Any, Final

from softprompt_serve.cli.app import main

SECONDS: Final = 0.0002
"""Between two looks: little beside a step, and long beside a look."""


def patch(condition: type[Any]) -> None:
    """Sleep before each look but the first."""
    look_again = condition.wait

    def wait(self: Any, timeout_ms: int | None = None) -> None:
        time.sleep(SECONDS)
        look_again(self, timeout_ms)

    condition.wait = wait


if __name__ == "__mp_main__":  # in a process that the server spawned
    from vllm.distributed.device_communicators.shm_broadcast import SpinCondition

    patch(SpinCondition)
elif __name__ == "__main__":
    main()
