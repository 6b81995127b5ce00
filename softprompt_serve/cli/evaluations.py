"""The group ``eval``: score versions on a data set, bring in what others scored, look at it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from softprompt_serve.cli import evaluating, evaluation_views, regressions
from softprompt_serve.cli import evaluation_options as options
from softprompt_serve.cli.client import Answer, local_user, prompt_path
from softprompt_serve.cli.prompts import NamedPrompt, Yes, confirm_removal
from softprompt_serve.cli.session import Json, Session, Token, Url, connected
from softprompt_serve.cli.upload import read_text
from softprompt_serve.errors import BadRequest
from softprompt_serve.evaluation.dataset import load_dataset
from softprompt_serve.evaluation.evaluators import evaluators_of
from softprompt_serve.evaluation.imports import read_inspect, read_lm_eval
from softprompt_serve.evaluation.imports.made import Imported, check_model
from softprompt_serve.evaluation.replies import base_of, targets_of
from softprompt_serve.evaluation.summary import summary_of
from softprompt_serve.release.evidence_shapes import parse_run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from softprompt_serve.release.evidence import Run

RunId = Annotated[str, typer.Argument(metavar="RUN", help="Its id, as in `eval list`.")]
NoUpload = Annotated[bool, typer.Option("--no-upload", help="Keep the run on this machine alone.")]


def register(app: typer.Typer) -> None:
    """Add the group to ``app``."""
    group = typer.Typer(
        name="eval",
        help="Score versions on a data set; what is found is the evidence for a promotion.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    group.command("run")(run)
    group.command("import")(import_)
    group.command("list")(list_)
    for command in (upload, show, remove):
        group.command()(command)
    regressions.register(group)
    app.add_typer(group)


def run(
    prompt: options.Prompt,
    versions: Annotated[
        str, typer.Option(metavar="V1,V2", help="Versions or aliases; `base` is the base model.")
    ],
    dataset: Annotated[Path, typer.Option(metavar="FILE", help="Items, in JSON lines.")],
    evaluators: Annotated[
        list[str], typer.Option("--evaluators", "-e", metavar="NAMES", help="By commas.")
    ],
    *,
    dataset_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="In evidence; else the file's.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first items.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of an answer.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0)] = 0.0,
    seed: Annotated[int, typer.Option()] = 0,
    sampling: options.Sampling = None,
    concurrency: options.Concurrency = 8,
    timeout: options.Timeout = 120.0,
    route: options.Route = "evaluation",
    results: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where findings go; resumed if there.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The results of a run that was stopped.")
    ] = None,
    no_upload: NoUpload = False,
    api_key_env: options.ApiKeyEnv = "OPENAI_API_KEY",
    judge_url: options.JudgeUrl = None,
    judge_model: options.JudgeModel = None,
    judge_key_env: options.JudgeKeyEnv = "JUDGE_API_KEY",
    judge_threshold: options.JudgeThreshold = 0.5,
    rubric: options.Rubric = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Ask several versions the same items, score the answers, keep and upload the evidence.

    \b
    Evaluators: exact_match, contains, regex:PATTERN, json_schema:FILE, tool_call, f1[:THRESHOLD],
    rouge_l[:THRESHOLD], judge:NAME, fi:NAME, python:MODULE:FUNCTION. See docs/evaluations.md.
    """  # noqa: D301 - the backspace is typer's mark of lines that must not be refilled
    with connected(url, token, as_json=as_json) as session:
        path = _results_path(results, resume)
        key = evaluating.key_from(api_key_env)
        judging = options.Judging(judge_url, judge_model, judge_key_env, judge_threshold, rubric)
        plan = evaluating.plan_of(
            session.api,
            prompt,
            [name.strip() for name in versions.split(",") if name.strip()],
            dataset=load_dataset(dataset, dataset_name, limit=limit),
            evaluators=evaluators_of(evaluators, judging.options(session, key)),
            sampling=evaluating.sampling_of(temperature, seed, max_tokens, sampling),
        )
        path = path or evaluating.results_path(plan.heading)
        asking = evaluating.Asking(key, route, timeout, concurrency)
        found = evaluating.carry_out(session, plan, path, asking)
        _finish(session, found.run(), evaluating.run_path(path), found.unscored, no_upload)


def import_(
    prompt: options.Prompt,
    version: Annotated[
        str, typer.Option(metavar="VERSION", help="Whose results they are; or `base`.")
    ],
    *,
    lm_eval: Annotated[
        Path | None, typer.Option(metavar="RESULTS.json", help="Of lm-eval.")
    ] = None,
    samples: Annotated[
        Path | None, typer.Option(metavar="DIR", help="With lm-eval's samples_*.jsonl.")
    ] = None,
    inspect: Annotated[
        Path | None, typer.Option(metavar="LOG.json", help="Of Inspect, in its JSON format.")
    ] = None,
    dataset_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="In evidence; else as they name it.")
    ] = None,
    any_model: Annotated[
        bool, typer.Option("--any-model", help="Though the file names another model.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the run goes as JSON.")
    ] = None,
    no_upload: NoUpload = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Take over what lm-eval or Inspect found about a version.

    The base model counts as the one that is served now.
    """
    with connected(url, token, as_json=as_json) as session:
        found = _read(lm_eval, samples, inspect)
        server = session.api.get("/server").data
        (target,) = targets_of(session.api.get(prompt_path(prompt)).data, server, [version])
        if not any_model:
            check_model(found, target, server["served_names"])
        made = found.run(prompt, target, base_of(server), dataset_name, local_user())
        for note in found.notes:
            session.note(note)
        path = out or Path(f"{prompt}-{target.version}-{made.id[:8]}.run.json")
        _finish(session, made, path, {}, no_upload)


def upload(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A run as JSON, of `eval run`.")],
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Send a run that was kept; sending it again changes nothing."""
    with connected(url, token, as_json=as_json) as session:
        kept = parse_run(read_text(file))
        evaluating.upload(session.api, kept, file)
        _show(session, kept, {})


def list_(prompt: NamedPrompt, url: Url = None, token: Token = None, as_json: Json = False) -> None:
    """List the stored runs of a prompt."""
    with connected(url, token, as_json=as_json) as session:
        session.show(session.api.get(f"{prompt_path(prompt)}/runs"), evaluation_views.runs)


def show(
    prompt: NamedPrompt,
    run_id: RunId,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Show what a stored run found; --json prints the whole run."""
    with connected(url, token, as_json=as_json) as session:
        answer = session.api.get(_run_path(prompt, run_id))
        session.show(
            answer,
            lambda _data: evaluation_views.summary(summary_of(parse_run(answer.text))),
        )


def remove(
    prompt: NamedPrompt,
    run_id: RunId,
    *,
    yes: Yes = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Remove a stored run for good; gates judge by what is left."""
    with connected(url, token, as_json=as_json) as session:
        path = _run_path(prompt, run_id)
        if not yes:
            confirm_removal(f"run {run_id} of {prompt}")
        session.show(session.api.change("DELETE", path), evaluation_views.removed)


def _run_path(prompt: str, run_id: str) -> str:
    if not run_id.isalnum():
        msg = f"{run_id!r} is no run's id; see `softprompt-serve eval list {prompt}`."
        raise BadRequest(msg, code="invalid_run", param="id")
    return f"{prompt_path(prompt)}/runs/{run_id}"


def _results_path(results: Path | None, resume: Path | None) -> Path | None:
    if resume is not None and results is not None and resume != results:
        msg = "Give --results or --resume, not both."
        raise BadRequest(msg, code="invalid_results")
    if resume is not None and not resume.is_file():
        msg = f"{resume} is not there; --resume takes the results of a run that was stopped."
        raise BadRequest(msg, code="invalid_results")
    return resume or results


def _read(lm_eval: Path | None, samples: Path | None, inspect: Path | None) -> Imported:
    if (lm_eval is None) == (inspect is None) or (samples is not None and lm_eval is None):
        msg = "Give --lm-eval RESULTS.json, with or without --samples DIR, or --inspect LOG.json."
        raise BadRequest(msg, code="invalid_import")
    if inspect is not None:
        return read_inspect(inspect)
    assert lm_eval is not None  # noqa: S101 - one of the two is given
    return read_lm_eval(lm_eval, samples)


def _finish(
    session: Session,
    made: Run,
    path: Path,
    unscored: Mapping[tuple[str, str, str], str],
    no_upload: bool,
) -> None:
    kept = evaluating.keep(made, path)
    if not no_upload:
        evaluating.upload(session.api, made, kept)
    _show(session, made, unscored)
    session.note(f"{'Kept in' if no_upload else 'Uploaded, and kept in'} {kept}.")


def _show(session: Session, made: Run, unscored: Mapping[tuple[str, str, str], str]) -> None:
    data = summary_of(made, unscored)
    session.show(Answer(200, json.dumps(data), data), evaluation_views.summary)
