"""Measure what the demo's versions do to a model's other abilities, on BIG-Bench Hard.

``python -m softprompt_serve.demo.bbh`` fetches BIG-bench once, takes the same few items of each of
22 tasks, and asks them of the base model, ``v1``, ``v2`` and ``v3`` side by side, or of those that
``--versions`` names. What is found goes to the server as evidence, so that a policy can hold a version
against ``base``.
"""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console

from softprompt_serve.cli import evaluations
from softprompt_serve.cli.evaluating import INTERRUPTED, keep, run_path
from softprompt_serve.cli.session import reported
from softprompt_serve.demo import bbh_archive, bbh_items, serve
from softprompt_serve.demo.pip_index import Pip
from softprompt_serve.demo.seed import PROMPT
from softprompt_serve.errors import BadRequest, StartupRefused
from softprompt_serve.evaluation.dataset import load_dataset
from softprompt_serve.release.evidence_shapes import parse_run
from softprompt_serve.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from softprompt_serve.release.evidence import Run

FOLDER: Final = Path(".demo") / "bbh"
"""Ignored by git, as the items must be."""

VERSIONS: Final = "base,v1,v2,v3"
OPTION: Final = r"(?i)^\W*([A-R]|Yes|No|True|False|(in)?valid|(im)?plausible|\d+)\W*$"
"""What an answer looks like that is an option, be it the right one, and not a ticket's label."""

EVALUATORS: Final = ("exact_match", f"is_option=regex:{OPTION}")
MAX_TOKENS: Final = 8
SAMPLING: Final = '{"stop": [")", "\\n"]}'
"""What follows an option's letter is not looked at: ``(B) the red one`` is ``(B)``."""

CONCURRENCY: Final = 16
ACTOR: Final = "softprompt-serve demo"


def datasets(
    names: Sequence[str], folder: Path, archive: Path | None, console: Console
) -> list[Path]:
    """The data sets as files of JSON lines, made of ``archive`` or of the one that is fetched.

    Raises:
        BadRequest: ``bbh_archive``, ``bbh_unexpected``: it is not what was measured.
        NotFound, Unavailable: it can't be fetched.
    """
    paths = {name: folder / f"{name}.jsonl" for name in names}
    missing = [name for name, path in paths.items() if not _is_there(path)]
    if missing:
        if archive is None:
            archive = bbh_archive.fetch(bbh_archive.BIGBENCH, folder, Pip.here, console)
        else:
            bbh_archive.BIGBENCH.check(archive)
        with console.status(f"Reading {archive}"):
            tasks = bbh_archive.read_tasks(archive, bbh_items.TASKS)
        for name in missing:
            write(paths[name], "".join(bbh_items.lines(name, tasks)))
            if not _is_there(paths[name]):
                found, known = load_dataset(paths[name]).sha256, bbh_items.SHA256[name]
                msg = f"{paths[name]} has the hash {found}, and what was measured {known}."
                raise BadRequest(msg, code="bbh_unexpected")
    return list(paths.values())


def _is_there(path: Path) -> bool:
    return path.is_file() and load_dataset(path).sha256 == bbh_items.SHA256[path.stem]


def write(path: Path, text: str) -> None:
    """Make a file appear at once, complete.

    Raises:
        BadRequest: ``bbh_unwritable``.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        msg = f"{path} can't be written: {error.strerror or error}."
        raise BadRequest(msg, code="bbh_unwritable") from error


@contextlib.contextmanager
def _server(url: str | None, port: int, console: Console) -> Iterator[str]:
    if url is not None:
        yield url
        return
    with contextlib.ExitStack() as stack:
        try:
            given = serve.started(load_settings(), port, [], console)
            _, address = stack.enter_context(given)
        except StartupRefused as error:
            if error.code == "port_in_use":
                error.message += f" If that is the demo: URL=http://{serve.DEFAULT_HOST}:{port}."
            raise
        yield address


def measure(
    url: str, items: Path, kept: Path | None, console: Console, versions: str = VERSIONS
) -> None:
    """Ask, print, upload; and write the evidence into the folder ``kept``, as the demo's own.

    A run that was stopped goes on; one that is complete makes room for the next. Other versions than
    :data:`VERSIONS` have files of their own, which their names end with.

    Raises:
        typer.Exit: it failed, and has said why.
        BadRequest: ``invalid_results``.
    """
    name = items.stem if versions == VERSIONS else f"{items.stem}-{versions.replace(',', '-')}"
    results = items.with_name(f"{name}-results.jsonl")
    try:
        evaluations.run(
            PROMPT,
            versions,
            items,
            list(EVALUATORS),
            max_tokens=MAX_TOKENS,
            sampling=SAMPLING,
            concurrency=CONCURRENCY,
            results=results,
            url=url,
        )
    except typer.Exit:
        console.print("Here the same command goes on, without more flags.")
        raise
    found = parse_run(run_path(results).read_bytes())
    if kept is not None:
        keep(to_ship(found), kept / f"{name}.json")
    results.replace(results.with_name(f"{name}-{found.id[:8]}.jsonl"))


def to_ship(run: Run) -> Run:
    """A run as the repository keeps it: scores alone, and so not the same run.

    How long answers took where everything was asked at once tells nobody anything, and hashes of
    answers that are one letter long would give the right ones away.
    """
    return replace(run, id=uuid.uuid4().hex, actor=ACTOR, answers=())


def _named(sets: str) -> list[str]:
    names = [name.strip() for name in sets.split(",")]
    if unknown := [name for name in names if name not in bbh_items.SETS]:
        msg = f"There is no data set {unknown[0]!r}; there are {', '.join(bbh_items.SETS)}."
        raise BadRequest(msg, code="bbh_unknown_set", param="--sets")
    return names


def main(
    *,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="The demo's server; else one is started.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65_535, help="For one that is started.")] = 8000,
    archive: Annotated[
        Path | None, typer.Option(metavar="FILE", help="BIG-bench 1.0.0; else it is fetched.")
    ] = None,
    folder: Annotated[Path, typer.Option(help="For archive, items and answers.")] = FOLDER,
    keep_in: Annotated[
        Path | None, typer.Option("--keep", metavar="DIR", help="Also write the evidence here.")
    ] = None,
    sets: Annotated[
        str, typer.Option(metavar="NAMES", help="Which of the data sets, by commas.")
    ] = ",".join(bbh_items.SETS),
    versions: Annotated[
        str, typer.Option(metavar="V1,V2", help="Who is asked; `base` is the base model.")
    ] = VERSIONS,
    only_items: Annotated[
        bool, typer.Option("--only-items", help="Make the data sets, and ask nobody.")
    ] = False,
) -> None:
    """Ask the demo's versions and their base model a slice of BIG-Bench Hard."""
    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    serve.heed_signals()
    try:
        with reported(as_json=False):
            files = datasets(_named(sets), folder, archive, console)
            if not only_items:
                with _server(url, port, console) as address:
                    for items in files:
                        measure(address, items, keep_in, console, versions)
    except KeyboardInterrupt:
        console.print("Stopped; the same command goes on from here.")
        raise typer.Exit(INTERRUPTED) from None


if __name__ == "__main__":
    typer.run(main)
