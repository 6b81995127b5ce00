"""Options of the commands that ask versions and score their answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from softprompt_serve.cli.documents import pairs_of
from softprompt_serve.cli.evaluating import key_from
from softprompt_serve.evaluation.evaluators import Options
from softprompt_serve.evaluation.evaluators.judge import Bench

if TYPE_CHECKING:
    from softprompt_serve.cli.session import Session

Prompt = Annotated[str, typer.Option("--prompt", "-p", metavar="PROMPT", help="Whose versions.")]
Sampling = Annotated[str | None, typer.Option(metavar="JSON", help="More fields of every request.")]
Concurrency = Annotated[int, typer.Option(min=1, max=512, help="Requests at a time.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds for one answer.")]
Route = Annotated[str, typer.Option(help="As in x-softprompt-route.")]
ApiKeyEnv = Annotated[str, typer.Option(metavar="VARIABLE", help="Holds the key of /v1.")]
JudgeUrl = Annotated[
    str | None, typer.Option(metavar="URL", help="With /v1; else the server's own.")
]
JudgeModel = Annotated[
    str | None, typer.Option(metavar="MODEL", help="Else the served base model.")
]
JudgeKeyEnv = Annotated[str, typer.Option(metavar="VARIABLE", help="Holds the judge's key.")]
JudgeThreshold = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="The score from which an answer passed.")
]
Rubric = Annotated[list[str] | None, typer.Option(metavar="NAME=FILE", help="Of judge:NAME.")]


@dataclass(frozen=True, slots=True)
class Judging:
    """Who judges, as the options say.

    Attributes:
        url, model: of the judge's endpoint; None for the server's own.
        key_env: the variable that holds its key.
        threshold: the score from which an answer passed.
        rubrics: ``NAME=FILE`` of each ``judge:NAME``.
    """

    url: str | None
    model: str | None
    key_env: str
    threshold: float
    rubrics: list[str] | None

    def options(self, session: Session, key: str | None) -> Options:
        """What evaluators need; the served base model judges unless another one is named.

        Args:
            session: to the server.
            key: of its ``/v1``.

        Raises:
            BadRequest: ``invalid_rubric``.
            ApiError, Unreachable: from the server.
        """
        pairs = pairs_of(self.rubrics or (), "invalid_rubric", "NAME=FILE")
        rubrics = {name: Path(file) for name, file in pairs}
        bench = self._bench(session, key) if rubrics else None
        return Options(bench, rubrics, self.threshold)

    def _bench(self, session: Session, key: str | None) -> Bench:
        name = self.model or session.api.get("/server").data["served_names"][0]
        if self.url is None:
            return Bench(f"{session.api.url}/v1", name, key)
        return Bench(self.url, name, key_from(self.key_env))
