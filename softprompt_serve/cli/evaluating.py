"""From a command's options to a run: what is asked of whom, the run itself, and its upload."""

from __future__ import annotations

import asyncio
import json
import os
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from softprompt_serve.cli.client import local_user, prompt_path
from softprompt_serve.cli.session import output
from softprompt_serve.errors import BadRequest, SoftpromptError
from softprompt_serve.evaluation.asking import Endpoint, Usage
from softprompt_serve.evaluation.evaluators.verdict import check_items
from softprompt_serve.evaluation.headings import Heading
from softprompt_serve.evaluation.replies import Target, base_of, targets_of
from softprompt_serve.evaluation.results import Results
from softprompt_serve.evaluation.runner import Runner
from softprompt_serve.release.evidence_shapes import to_document
from softprompt_serve.rollout.cost import Prices
from softprompt_serve.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from softprompt_serve.cli.client import Answer, Api
    from softprompt_serve.cli.session import Session
    from softprompt_serve.evaluation.dataset import Dataset
    from softprompt_serve.evaluation.evaluators import Evaluator
    from softprompt_serve.release.evidence import Run
    from softprompt_serve.telemetry.events import RequestEvent

INTERRUPTED: Final = 130
_OURS: Final = frozenset({"model", "messages", "prompt", "stream", "stream_options", "n"})
"""What an evaluation sets itself, or could not make sense of."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run asks of whom.

    Attributes:
        dataset, targets, evaluators: who asks whom what.
        heading: the same in names and hashes.
        server: what ``GET /server`` says.
    """

    dataset: Dataset
    targets: tuple[Target, ...]
    evaluators: tuple[Evaluator, ...]
    heading: Heading
    server: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Asking:
    """How the endpoint is asked.

    Attributes:
        key: bearer token of ``/v1``.
        route: that requests declare.
        timeout_seconds: for one answer.
        concurrency: answers awaited at a time.
    """

    key: str | None
    route: str
    timeout_seconds: float
    concurrency: int


def plan_of(
    api: Api,
    prompt: str,
    versions: Sequence[str],
    *,
    dataset: Dataset,
    evaluators: tuple[Evaluator, ...],
    sampling: Mapping[str, Any],
) -> Plan:
    """Find out what the names stand for on the server, and that the items fit the evaluators.

    Raises:
        NotFound, BadRequest: versions or items that can't be asked or scored.
        ApiError, Unreachable: from the server.
    """
    check_items(evaluators, dataset.items)
    server = api.get("/server").data
    targets = targets_of(api.get(prompt_path(prompt)).data, server, versions)
    heading = Heading(
        uuid.uuid4().hex,
        prompt,
        dataset.name,
        dataset.sha256,
        {target.version: target.digest for target in targets},
        {evaluator.name: evaluator.version for evaluator in evaluators},
        sampling,
        base_of(server),
        local_user(),
    )
    return Plan(dataset, targets, evaluators, heading, server)


def sampling_of(temperature: float, seed: int, max_tokens: int, more: str | None) -> dict[str, Any]:
    """What every request is sent with.

    Raises:
        BadRequest: ``invalid_sampling``.
    """
    try:
        extra = json.loads(more) if more is not None else {}
        json.dumps(extra, allow_nan=False)
    except ValueError as error:
        msg = f"--sampling is no JSON: {error}"
        raise BadRequest(msg, code="invalid_sampling") from error
    if not isinstance(extra, dict) or _OURS & extra.keys():
        msg = f"--sampling must be a JSON object without {', '.join(sorted(_OURS))}."
        raise BadRequest(msg, code="invalid_sampling")
    return {"temperature": temperature, "seed": seed, "max_tokens": max_tokens, **extra}


def results_path(heading: Heading) -> Path:
    """Where a run goes that nobody gave a place."""
    dataset = re.sub(r"[^\w.-]+", "-", heading.dataset)
    return Path(f"{heading.prompt}-{dataset}-{heading.id[:8]}.jsonl")


def carry_out(session: Session, plan: Plan, path: Path, asking: Asking) -> Results:
    """The run, from where ``path`` has it; ended when this returns.

    Ctrl-C ends the command with status 130; what is answered is kept.

    Raises:
        SoftpromptError: as :meth:`Runner.run`, with a word on how to go on.
    """
    with Results.open(path, plan.heading) as results:
        if results.replies:
            session.note(f"{path} has {len(results.replies)} answers already; going on from there.")
        try:
            asyncio.run(ask_all(session.api.url, plan, results, asking))
        except KeyboardInterrupt:
            _interrupted(session, plan, results)
        except SoftpromptError as error:
            error.message += f" {len(results.replies)} answers are in {path}; {_again(path)}"
            raise
        return results


async def ask_all(url: str, plan: Plan, results: Results, asking: Asking) -> None:
    """Ask and score what the results have not yet, with a bar that shows how far it is.

    Raises:
        SoftpromptError: as :meth:`Runner.run`.
    """
    endpoint = Endpoint(
        url,
        asking.key,
        route=asking.route,
        timeout_seconds=asking.timeout_seconds,
        cost=_tariff(plan.server),
    )
    items, targets = plan.dataset.items, plan.targets
    async with endpoint:
        runner = Runner(plan.evaluators, results, endpoint)
        with _progress() as progress:
            task = progress.add_task(plan.dataset.name, total=len(items) * len(targets))
            await runner.run(
                items,
                targets,
                concurrency=asking.concurrency,
                advance=lambda: progress.advance(task),
            )


def _interrupted(session: Session, plan: Plan, results: Results) -> NoReturn:
    total = len(plan.dataset.items) * len(plan.targets)
    session.note(f"Stopped at {len(results.replies)} of {total} answers. {_again(results.path)}")
    raise typer.Exit(INTERRUPTED) from None


def _again(path: Path) -> str:
    return f"The same command with `--resume {path}` goes on from there."


def _tariff(server: Mapping[str, Any]) -> Callable[[Usage], float | None]:
    """The server's prices where it tells them, else those in this process's settings."""
    told = server.get("prices")
    prices = Prices(**told) if told else Prices.of(load_settings(), server["served_names"])
    # Of an event, a cost reads the four counts that a usage has.
    return lambda usage: prices.cost(cast("RequestEvent", usage))


def keep(run: Run, path: Path) -> Path:
    """Write the evidence as JSON; the path it went to.

    Raises:
        BadRequest: ``invalid_results``: it can't be written; ``invalid_run``.
    """
    document = to_document(run)
    try:
        path.write_bytes(document + b"\n")
    except OSError as error:
        msg = f"{path} can't be written: {error.strerror or error}."
        raise BadRequest(msg, code="invalid_results") from error
    return path


def upload(api: Api, run: Run, kept: Path) -> Answer:
    """Send the evidence; sending it again changes nothing.

    Raises:
        ApiError, Unreachable: from the server; the message says how to send it later.
    """
    body = json.loads(to_document(run))
    try:
        return api.change("POST", f"{prompt_path(run.prompt)}/runs", json_body=body)
    except SoftpromptError as error:
        error.message += (
            f" The run is kept in {kept}; `softprompt-serve eval upload {kept}` sends it."
        )
        raise


def run_path(results: Path) -> Path:
    """Where the evidence of a file of results goes."""
    return results.with_name(f"{results.name.removesuffix('.jsonl')}.run.json")


def key_from(variable: str) -> str | None:
    """A bearer token from the environment, or None where there is none."""
    return os.environ.get(variable) or None


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=output(stderr=True),
        transient=True,
    )
