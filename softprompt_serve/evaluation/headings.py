"""What a run asks of whom: the first line of its results, and what must be equal to resume it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from softprompt_serve.errors import Conflict
from softprompt_serve.release.evidence import Base

FORMAT: Final = 1
FIRST: Final = b'{"type":"run",'
"""How every file of results begins."""

_SAME: Final = (
    "prompt",
    "dataset",
    "dataset_sha256",
    "digests",
    "evaluators",
    "sampling",
    "base",
)
_SHOWN: Final = 300


@dataclass(frozen=True, slots=True)
class Heading:
    """What a run asks; a run can only be resumed as what it was.

    Attributes:
        id: of the run.
        prompt, dataset, dataset_sha256, digests, evaluators, sampling, base, actor: as in
            :class:`~softprompt_serve.release.evidence.Run`.
    """

    id: str
    prompt: str
    dataset: str
    dataset_sha256: str
    digests: Mapping[str, str]
    evaluators: Mapping[str, str]
    sampling: Mapping[str, Any]
    base: Base
    actor: str | None = None

    def check_same(self, other: Heading, place: str) -> None:
        """Refuse to mix two runs.

        Raises:
            Conflict: ``run_differs``, naming the first thing in which ``other`` is another run.
        """
        for name in _SAME:
            theirs, ours = getattr(self, name), getattr(other, name)
            if theirs != ours:
                was, would_be = _apart(theirs, ours)
                msg = (
                    f"{place} holds another run: {name} was {was}, now it would be {would_be}. "
                    "Give another file, or ask for the same."
                )
                raise Conflict(msg, code="run_differs", param=name)

    def to_json(self) -> dict[str, Any]:
        """The first line of a file of results."""
        parts = {
            **{name: getattr(self, name) for name in self.__slots__},
            "digests": dict(self.digests),
            "evaluators": dict(self.evaluators),
            "sampling": dict(self.sampling),
            "base": asdict(self.base),
        }
        return {"type": "run", "format": FORMAT, **parts}

    @classmethod
    def of_json(cls, record: dict[str, Any]) -> Self:
        """The heading in such a line.

        Raises:
            ValueError, KeyError, TypeError: it is none.
        """
        if record.pop("type") != "run" or record.pop("format") != FORMAT:
            msg = "not this format"
            raise ValueError(msg)
        return cls(**{**record, "base": Base(**record["base"])})


def _apart(theirs: object, ours: object) -> tuple[str, str]:
    """Two values as JSON; of two mappings only what differs."""
    one, other = (asdict(v) if isinstance(v, Base) else v for v in (theirs, ours))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        same = {key for key in one if key in other and one[key] == other[key]}
        one, other = ({k: v for k, v in m.items() if k not in same} for m in (one, other))
    first, second = (json.dumps(v, ensure_ascii=False, default=dict)[:_SHOWN] for v in (one, other))
    return first, second
