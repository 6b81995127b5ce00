"""Changes as events: how long each took, who asked, and how it ended."""

from __future__ import annotations

import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from softprompt_serve.errors import SoftpromptError
from softprompt_serve.telemetry.events import Operation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from softprompt_serve.telemetry.events import OperationName

PARENT: ContextVar[str | None] = ContextVar("softprompt_parent", default=None)
"""``traceparent`` of the admin call that is being answered, if it had one."""


@contextmanager
def operation(
    tell: Callable[[Operation], None],
    name: OperationName,
    prompt: str,
    subject: str,
    actor: str | None,
) -> Iterator[dict[str, Any]]:
    """Tell of the change that is made inside, done or failed.

    Yields:
        The operation's attributes, to be added to.
    """
    attributes: dict[str, Any] = {}
    began, started_at = time.perf_counter(), time.time()
    error: str | None = None
    try:
        yield attributes
    except SoftpromptError as failure:
        error = failure.code
        raise
    except BaseException as failure:
        error = type(failure).__name__
        raise
    finally:
        tell(
            Operation(
                name=name,
                prompt=prompt,
                subject=subject,
                actor=actor,
                started_at=started_at,
                seconds=time.perf_counter() - began,
                error=error,
                parent=PARENT.get(),
                attributes=attributes,
            )
        )
