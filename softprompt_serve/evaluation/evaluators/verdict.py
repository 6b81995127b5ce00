"""What an evaluator is, and what it finds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from softprompt_serve.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from softprompt_serve.evaluation.dataset import Item
    from softprompt_serve.evaluation.replies import Reply


class Verdict(NamedTuple):
    """A finding about one answer.

    Attributes:
        value: 0 to 1; more is better.
        passed: whether that is good enough.
        note: a word of why, or nothing.
    """

    value: float
    passed: bool
    note: str = ""

    @classmethod
    def of(cls, *, right: bool, note: str = "") -> Verdict:
        """1 and passed, or 0 and failed."""
        return cls(float(right), right, note)


class NoVerdict(Exception):
    """An evaluator can't say; the answer gets no score of it, and the note is kept."""


class Evaluator(Protocol):
    """Scores answers; one object serves a whole run, several answers at a time.

    Attributes:
        name: what evidence and policies call it.
        version: another one whenever the same answer may get another verdict.
        needs: fields that every item must have, such as ``expected``.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - see the class

    @property
    def version(self) -> str: ...  # noqa: D102 - see the class

    @property
    def needs(self) -> tuple[str, ...]: ...  # noqa: D102 - see the class

    async def score(self, item: Item, reply: Reply) -> Verdict:
        """What it finds.

        Raises:
            NoVerdict: it can't say anything about this answer.
            SoftpromptError: it can't say anything at all now; the run stops and can be resumed.
        """
        ...


@dataclass(frozen=True, slots=True)
class Named:
    """Name, version and needs of an evaluator; the base of ours."""

    name: str
    version: str
    needs: tuple[str, ...] = ()


def check_items(evaluators: Iterable[Evaluator], items: Iterable[Item]) -> None:
    """Make sure, before anything is asked, that each item has what the evaluators need.

    Raises:
        BadRequest: ``invalid_dataset``, with the first item that has not.
    """
    asking = list(evaluators)
    for item in items:
        for evaluator in asking:
            for field in evaluator.needs:
                if getattr(item, field) in (None, [], ""):
                    msg = f"{evaluator.name} needs `{field}`, which item {item.id!r} has not."
                    raise BadRequest(msg, code="invalid_dataset", param=field)


def checked(evaluator: Evaluator, verdict: Verdict) -> Verdict:
    """The verdict itself.

    Raises:
        BadRequest: ``invalid_verdict``: not a finite value from 0 to 1.
    """
    if not (math.isfinite(verdict.value) and 0.0 <= verdict.value <= 1.0):
        msg = f"{evaluator.name} found {verdict.value}; expected a value from 0 to 1."
        raise BadRequest(msg, code="invalid_verdict")
    return verdict
