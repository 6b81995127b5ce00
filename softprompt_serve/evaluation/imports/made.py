"""What another harness found about one model, before it is known whose model that is."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from softprompt_serve.errors import BadRequest
from softprompt_serve.evaluation.dataset import canonical_json
from softprompt_serve.release.evidence import Run, Score, Total

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from softprompt_serve.evaluation.replies import Target
    from softprompt_serve.release.evidence import Base, Source

PASSED: Final = 0.5
"""A sample's value from which on it counts as passed, for harnesses that know values alone."""

_COHORT: Final = "default"
_ID_DIGITS: Final = 32


class Mean(NamedTuple):
    """A task's result: a mean of 0 to 1, its standard error or None, and of how many items."""

    evaluator: str
    mean: float
    stderr: float | None
    items: int


class Found(NamedTuple):
    """What came of one item."""

    item: str
    evaluator: str
    value: float


@dataclass(frozen=True, slots=True)
class Imported:
    """A file of results.

    Attributes:
        source: whose.
        dataset, dataset_sha256: as in a run; equal for two files that asked the same.
        model: what was asked, by its own account.
        at: Unix time of its end.
        evaluators: evaluator → its version.
        means, found: in the order of the file.
        sampling: how it was asked.
        notes: what was left out, for a person.
    """

    source: Source
    dataset: str
    dataset_sha256: str
    model: str
    at: float
    evaluators: Mapping[str, str]
    means: tuple[Mean, ...]
    found: tuple[Found, ...] = ()
    sampling: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    notes: tuple[str, ...] = ()

    def run(
        self, prompt: str, target: Target, base: Base, dataset: str | None, actor: str | None
    ) -> Run:
        """The evidence about ``target``; the same file about the same version is the same run."""
        name = dataset or self.dataset
        version = target.version
        content = {
            **{key: part for key, part in asdict(self).items() if key != "notes"},
            "about": [prompt, version, target.digest, name],
            "base": asdict(base),
        }
        told = canonical_json(json.loads(json.dumps(content, default=dict)))
        return Run(
            id=hashlib.sha256(told.encode()).hexdigest()[:_ID_DIGITS],
            prompt=prompt,
            dataset=name,
            dataset_sha256=self.dataset_sha256,
            digests={version: target.digest},
            evaluators=self.evaluators,
            base=base,
            at=self.at,
            source=self.source,
            sampling=self.sampling,
            actor=actor,
            totals=tuple(Total(version, *mean) for mean in self.means),
            scores=tuple(
                Score(item, version, _COHORT, evaluator, value, value >= PASSED)
                for item, evaluator, value in self.found
            ),
        )


def check_model(found: Imported, target: Target, served: Collection[str]) -> None:
    """Make sure that results are those of the version whose they shall be.

    Raises:
        BadRequest: ``other_model``.
    """
    expected = [target.model] if target.prompt else list(served)
    if not any(found.model == name or found.model.endswith(f"/{name}") for name in expected):
        msg = (
            f"The file holds results of {found.model!r}, not of {' or '.join(expected)}. If they are "
            "the same, say so with --any-model."
        )
        raise BadRequest(msg, code="other_model")


def share(value: object) -> float | None:
    """A finite number from 0 to 1; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and 0.0 <= value <= 1.0 else None


def error_of(value: object) -> float | None:
    """A standard error; None where there is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value >= 0.0 else None


def read_json(path: Path) -> Any:
    """A file's JSON.

    Raises:
        BadRequest: ``invalid_import``.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        refuse(path, str(error), error)


def refuse(path: Path, why: str, error: Exception | None = None) -> NoReturn:
    """Say what is wrong with a file.

    Raises:
        BadRequest: ``invalid_import``.
    """
    msg = f"{path} can't be imported: {why}."
    raise BadRequest(msg, code="invalid_import") from error
