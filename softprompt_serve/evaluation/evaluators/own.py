"""``python:package.module:function``: a team's own evaluator.

The function takes the item and the reply, may be ``async``, and returns true or false, a number from
0 to 1 (passed from 0.5 on), ``(value, passed)`` or ``(value, passed, note)``; None is no verdict.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import inspect
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from softprompt_serve.errors import BadRequest
from softprompt_serve.evaluation.evaluators.verdict import Named, NoVerdict, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from softprompt_serve.evaluation.dataset import Item
    from softprompt_serve.evaluation.replies import Reply

_PASSED: Final = 0.5


@dataclass(frozen=True, slots=True)
class Own(Named):
    """Calls a function."""

    function: Callable[[Item, Reply], Any] = field(kw_only=True)

    @classmethod
    def of(cls, name: str, place: str) -> Own:
        """The evaluator for what stands behind ``python:``; the working directory is searched, too.

        Its version is the function's attribute ``version``, else a hash of its module's source, so
        that no change goes by unseen.

        Raises:
            BadRequest: ``invalid_evaluator``.
        """
        module, _, function = place.partition(":")
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.insert(0, here)
        try:
            found = getattr(importlib.import_module(module), function)
        except Exception as error:
            msg = f"python:{place} can't be imported: {error or type(error).__name__}."
            raise BadRequest(msg, code="invalid_evaluator") from error
        if not callable(found):
            msg = f"python:{place} is no function."
            raise BadRequest(msg, code="invalid_evaluator")
        return cls(name, str(getattr(found, "version", None) or _hash(found)), function=found)

    async def score(self, item: Item, reply: Reply) -> Verdict:
        """What the function finds; one that is not ``async`` runs in a thread.

        Raises:
            NoVerdict: it returned None.
            BadRequest: ``evaluator_failed``: it raised, or returned something else.
        """
        try:
            if inspect.iscoroutinefunction(self.function):
                found = await self.function(item, reply)
            else:
                found = await asyncio.to_thread(self.function, item, reply)
        except NoVerdict:
            raise
        except Exception as error:
            msg = f"{self.name} failed on item {item.id!r}: {type(error).__name__}: {error}"
            raise BadRequest(msg, code="evaluator_failed") from error
        return self._verdict(found, item)

    def _verdict(self, found: Any, item: Item) -> Verdict:
        match found:
            case None:
                msg = "it returned None"
                raise NoVerdict(msg)
            case bool():
                return Verdict.of(right=found)
            case int() | float():
                return Verdict(float(found), found >= _PASSED)
            case (int() | float() as value, bool() as passed):
                return Verdict(float(value), passed)
            case (int() | float() as value, bool() as passed, str() as note):
                return Verdict(float(value), passed, note)
        msg = (
            f"{self.name} returned {found!r} for item {item.id!r}; expected a bool, a number, "
            "(value, passed) or (value, passed, note)."
        )
        raise BadRequest(msg, code="evaluator_failed")


def _hash(function: object) -> str:
    try:
        source = inspect.getsource(inspect.getmodule(function) or function)  # type: ignore[arg-type]
    except (OSError, TypeError) as error:
        msg = f"{function!r} has no source to tell its version by; give it an attribute `version`."
        raise BadRequest(msg, code="invalid_evaluator") from error
    return f"source-{hashlib.sha256(source.encode()).hexdigest()[:12]}"
