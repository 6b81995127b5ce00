"""What a run asks of whom: the first line of its results, and what must be equal to resume it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from softprompt_serve.errors import Conflict
from softprompt_serve.release.evidence import Base

if TYPE_CHECKING:
    from collections.abc import Mapping

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
                msg = (
                    f"{place} holds another run: its {name} is {_plain(theirs)}, now it would be "
                    f"{_plain(ours)}. Give another file, or ask for the same."
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


def _plain(value: object) -> str:
    plain = asdict(value) if isinstance(value, Base) else value
    return json.dumps(plain, ensure_ascii=False, default=dict)[:_SHOWN]
