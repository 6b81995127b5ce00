"""``report``: everything that a reviewer needs to sign for a version, as pages to keep."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from softprompt_serve.cli.client import prompt_path, version_path
from softprompt_serve.cli.prompts import Label, split_label
from softprompt_serve.cli.session import Token, Url, connected, output
from softprompt_serve.errors import BadRequest
from softprompt_serve.release.evidence_shapes import parse_run
from softprompt_serve.release.report import Sources, compose
from softprompt_serve.release.report_pick import runs_needed
from softprompt_serve.release.report_render import to_html, to_markdown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from softprompt_serve.cli.client import Api
    from softprompt_serve.release.evidence import Run
    from softprompt_serve.release.report_data import ReportData

    _Data = Mapping[str, Any]

FORMATS: Final[Mapping[str, tuple[str, Callable[[ReportData], str]]]] = {
    "html": (".html", to_html),
    "md": (".md", to_markdown),
}
_NEWEST: Final = 1000


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(report)


def report(
    label: Label,
    *,
    into: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", help="Where to; made if it isn't there."),
    ] = Path(),
    formats: Annotated[
        str, typer.Option("--format", metavar="FORMATS", help="html, md, or both with a comma.")
    ] = ",".join(FORMATS),
    url: Url = None,
    token: Token = None,
) -> None:
    """Write what is known of a version as a page to read, print and sign.

    What it is and was trained on, its results against the baseline by cohort, gates passed and
    failed, latency, cost, lineage, evidence and history. VERSION may be an alias. Changes nothing
    on the server.
    """
    with connected(url, token, as_json=False) as session:
        wanted = _formats(formats)
        prompt, version = split_label(label)
        data = compose(fetched(session.api, prompt, version, now=time.time()))
        for name in wanted:
            suffix, render = FORMATS[name]
            output().print(str(_written(into / f"{data.label}{suffix}", render(data))))


def fetched(api: Api, prompt: str, version: str, *, now: float) -> Sources:
    """What a report is made of, as the server answers it.

    Raises:
        ApiError, Unreachable: as every call.
    """
    found = api.get(version_path(prompt, version)).data
    versions = api.get(prompt_path(prompt)).data["versions"]
    server = api.get("/server").data
    verdict = api.get(f"{version_path(prompt, found['version'])}/gates").data
    return Sources(
        version=found,
        versions=versions,
        runs=_runs(api, found, versions, verdict, server),
        policy=api.get(f"{prompt_path(prompt)}/policy").data,
        verdict=verdict,
        server=server,
        audit=api.get("/audit", prompt=prompt, limit=_NEWEST).data["data"],
        now=now,
    )


def _runs(
    api: Api, version: _Data, versions: Sequence[_Data], verdict: _Data, server: _Data
) -> tuple[Run, ...]:
    place = f"{prompt_path(version['prompt'])}/runs"
    ids = runs_needed(
        api.get(place, limit=_NEWEST).data["data"],
        version["version"],
        {other["version"]: other["digest"] for other in versions},
        verdict,
        server["base_model"]["fingerprint"],
    )
    return tuple(parse_run(api.get(f"{place}/{run_id}").text) for run_id in ids)


def _formats(given: str) -> list[str]:
    """The names in ``html,md``, each once.

    Raises:
        BadRequest: ``invalid_format``.
    """
    names = list(dict.fromkeys(name.strip() for name in given.split(",") if name.strip()))
    if not names or set(names) - FORMATS.keys():
        msg = f"--format is {given!r}; expected {' or '.join(FORMATS)}, or both with a comma."
        raise BadRequest(msg, code="invalid_format", param="format")
    return names


def _written(path: Path, text: str) -> Path:
    """Write a page.

    Raises:
        BadRequest: ``report_not_written``.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        msg = f"The report can't be written: {error}."
        raise BadRequest(msg, code="report_not_written", param="output") from error
    return path
