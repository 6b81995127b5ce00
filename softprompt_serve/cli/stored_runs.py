"""The runs that a server has of a data set: which of them is repeated, and with what."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NoReturn

from softprompt_serve.cli.client import prompt_path
from softprompt_serve.errors import BadRequest, Conflict, NotFound
from softprompt_serve.evaluation.evaluators import evaluators_of
from softprompt_serve.release.case import called
from softprompt_serve.release.evidence import Base, Run
from softprompt_serve.release.evidence_shapes import parse_run
from softprompt_serve.release.regression import Question, reference_of
from softprompt_serve.release.verdict import short

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from softprompt_serve.cli.client import Api
    from softprompt_serve.evaluation.dataset import Dataset
    from softprompt_serve.evaluation.evaluators import Evaluator, Options

_NEWEST: Final = 1000
_LISTED: Final = 3


@dataclass(frozen=True, slots=True)
class Stored:
    """A data set's runs on a server.

    Attributes:
        prompt: whose.
        dataset: the items, as they are on this machine.
        runs: that asked these very items, newest first, without what they found.
    """

    prompt: str
    dataset: Dataset
    runs: tuple[Run, ...]

    @classmethod
    def of(cls, api: Api, prompt: str, dataset: Dataset) -> Stored:
        """Read them.

        Raises:
            BadRequest: ``dataset_differs``: all that is stored under this name asked other items.
            ApiError, Unreachable: from the server.
        """
        path = f"{prompt_path(prompt)}/runs"
        listed = api.get(path, dataset=dataset.name, limit=_NEWEST).data["data"]
        runs = [_head(prompt, data) for data in listed if data["source"] == "run"]
        sha256 = dataset.sha256
        alike = tuple(run for run in runs if run.dataset_sha256 == sha256)
        if runs and not alike:
            _other_items(dataset.name, sha256, runs)
        return cls(prompt, dataset, alike)

    def evaluators(self, before: Run | None, options: Options) -> tuple[Evaluator, ...]:
        """Those of a run, so that they judge as they did then.

        Raises:
            BadRequest: ``invalid_evaluator``: there is no such run; or they can't be made from
                their names alone.
        """
        if before is None:
            msg = (
                f"Nothing is stored of {self.dataset.name} that could be repeated; say with "
                "--evaluators what shall score the first run."
            )
            raise BadRequest(msg, code="invalid_evaluator", param="evaluators")
        try:
            made = evaluators_of(list(before.evaluators), options)
        except BadRequest as error:
            error.message += f" {called(before).capitalize()} used it; give --evaluators."
            raise
        for one in made:
            if one.version != (then := before.evaluators[one.name]):
                msg = (
                    f"{one.name} is {one.version} here, expected {then} as in {called(before)}: "
                    "the same answer may get another verdict. Give --evaluators with what makes it "
                    "the same, or what it shall be from now on."
                )
                raise BadRequest(msg, code="invalid_evaluator", param="evaluators")
        return made

    def latest(self, digests: Mapping[str, str], served: Base) -> Run | None:
        """What would be repeated for these versions; else the newest run of any versions."""
        question = Question(self.dataset.sha256, digests)
        return reference_of(self.runs, question, served) or next(iter(self.runs), None)

    def reference(self, api: Api, made: Run, pinned: str | None) -> Run | None:
        """The whole run that a new one is held against, or None.

        Args:
            api: to the server.
            made: the new one.
            pinned: the id, or its first digits, of the run that it shall be.

        Raises:
            NotFound: ``run_not_found``.
            Conflict: ``run_differs``: the pinned one asked something else.
            ApiError, Unreachable: from the server.
        """
        question = Question(made.dataset_sha256, made.digests, made.evaluators, dict(made.sampling))
        others = [run for run in self.runs if run.id != made.id]
        if pinned is None:
            found = reference_of(others, question, made.base)
        else:
            found = next((run for run in others if run.id.startswith(pinned)), None)
            _check_pinned(self.dataset.name, pinned, found, question)
        if found is None:
            return None
        return parse_run(api.get(f"{prompt_path(self.prompt)}/runs/{found.id}").text)


def _check_pinned(dataset: str, pinned: str, found: Run | None, question: Question) -> None:
    if found is None:
        msg = f"There is no run {pinned} of {dataset} on these items; see `softprompt-serve eval list`."
        raise NotFound(msg, code="run_not_found", param="reference")
    if (name := question.differs(found)) is not None:
        msg = f"{called(found).capitalize()} can't be the reference: its {name} are others."
        raise Conflict(msg, code="run_differs", param=name)


def _head(prompt: str, data: Mapping[str, Any]) -> Run:
    return Run(
        id=data["id"],
        prompt=prompt,
        dataset=data["dataset"],
        dataset_sha256=data["dataset_sha256"],
        digests=data["digests"],
        evaluators=data["evaluators"],
        base=Base(**data["base"]),
        at=datetime.fromisoformat(data["at"]).timestamp(),
        source=data["source"],
        sampling=data["sampling"],
        actor=data["actor"],
    )


def _other_items(name: str, sha256: str, runs: Sequence[Run]) -> NoReturn:
    hashes = list(dict.fromkeys(run.dataset_sha256 for run in runs))
    expected = " or ".join(short(one) for one in hashes[:_LISTED])
    rest = " or another one" if len(hashes) > _LISTED else ""
    msg = (
        f"{name} has the SHA-256 {short(sha256)} here, expected {expected}{rest} as in the stored "
        f"runs, such as {called(runs[0])}: these are other items. Give the file that they asked, or "
        "call this one otherwise: --dataset NAME=FILE."
    )
    raise BadRequest(msg, code="dataset_differs", param="dataset")
