"""``eval watch``: rerun stored evaluations by the clock or after a change of the base model."""

from __future__ import annotations

import json
import math
import re
import signal
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from softprompt_serve.cli import drift_views, evaluating
from softprompt_serve.cli import evaluation_options as options
from softprompt_serve.cli.client import Answer, ApiError
from softprompt_serve.cli.rerunning import MAX_TOKENS, Ask, is_due, rerun
from softprompt_serve.cli.session import FAILED, Json, Session, Token, Url, connected
from softprompt_serve.errors import BadRequest, SoftpromptError
from softprompt_serve.evaluation.dataset import Dataset, load_dataset
from softprompt_serve.evaluation.replies import base_of
from softprompt_serve.release.regression import same_base

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from softprompt_serve.cli.drift_report import Found
    from softprompt_serve.release.evidence import Base

SHIFTED: Final = 3
"""Exit status: a score has shifted, for better or worse."""

_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION: Final = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>[smhd])")
_SERVER_ERRORS: Final = 500
_PASSING: Final = frozenset(
    {"server_unreachable", "server_timeout", "endpoint_lost", "base_changed"}
)
"""Codes of what may be over at the next look."""


def register(group: typer.Typer) -> None:
    """Add the command to ``eval``."""
    group.command("watch")(watch)


def _duration(text: str) -> float:
    found = _DURATION.fullmatch(text)
    seconds = float(found["number"]) * _SECONDS[found["unit"]] if found else 0.0
    if not seconds:
        msg = f"{text!r} is no time; expected one such as 90s, 30m, 6h or 1d"
        raise typer.BadParameter(msg)
    return seconds


@dataclass(frozen=True, slots=True)
class Pace:
    """When to rerun.

    Attributes:
        every: seconds from one rerun to the next; infinite for none by the clock.
        look: seconds between two looks at the base model.
    """

    every: float
    look: float


def watch(
    prompt: options.Prompt,
    dataset: Annotated[
        list[str],
        typer.Option(
            metavar="[NAME=]FILE", help="The items that the stored runs asked; repeatable."
        ),
    ],
    *,
    versions: Annotated[
        str | None,
        typer.Option(
            metavar="V1,V2",
            help="Versions or aliases; else production and the policy's baseline.",
            show_default=False,
        ),
    ] = None,
    evaluators: Annotated[
        list[str] | None,
        typer.Option(
            "--evaluators",
            "-e",
            metavar="NAMES",
            help="By commas; else those of the stored run.",
            show_default=False,
        ),
    ] = None,
    every: Annotated[
        float | None,
        typer.Option(
            metavar="TIME",
            parser=_duration,
            help="Rerun so often, such as 6h, and when the base model changes.",
        ),
    ] = None,
    once: Annotated[
        bool,
        typer.Option(
            "--once", help="End after one rerun, as without --every and --on-base-change."
        ),
    ] = False,
    on_base_change: Annotated[
        bool,
        typer.Option(
            "--on-base-change",
            help="Rerun when the base model is one that no stored run was made on; without "
            "--every only then.",
        ),
    ] = False,
    look: Annotated[
        float,
        typer.Option(metavar="TIME", parser=_duration, help="How often to look at the base model."),
    ] = "60s",  # type: ignore[assignment] # typer parses defaults as well
    reference: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Compare with this stored run; else see docs/drift.md."),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Of an answer; else as in the stored run.", show_default=False),
    ] = None,
    sampling: options.Sampling = None,
    concurrency: options.Concurrency = 8,
    timeout: options.Timeout = 120.0,
    route: options.Route = "evaluation",
    folder: Annotated[
        Path, typer.Option(metavar="DIR", help="Where answers are kept, and gone on from.")
    ] = Path(),
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
    """Rerun stored evaluations, and say whether scores have shifted.

    Exit status 0: no shift; 3: shifted, for better or worse. With --every or --on-base-change it
    runs until Ctrl-C or SIGTERM, and waits for a server that is gone. What a policy's `watch` says
    is done: see docs/drift.md. --json prints a line for each rerun.
    """
    with connected(url, token, as_json=as_json) as session:
        if once and every is not None:
            msg = "Give --once or --every, not both."
            raise BadRequest(msg, code="invalid_request", param="once")
        given = max_tokens is not None or sampling is not None
        ask = Ask(
            prompt,
            _listed(versions),
            tuple(_dataset(one) for one in dataset),
            tuple(evaluators or ()),
            options.Judging(judge_url, judge_model, judge_key_env, judge_threshold, rubric),
            evaluating.sampling_of(0.0, 0, max_tokens or MAX_TOKENS, sampling) if given else None,
            evaluating.Asking(evaluating.key_from(api_key_env), route, timeout, concurrency),
            reference,
            folder,
        )
        if every is None and (once or not on_base_change):
            _once(session, ask, only_if_due=on_base_change)
        else:
            _keep(session, ask, Pace(every or math.inf, look))


def _once(session: Session, ask: Ask, *, only_if_due: bool) -> None:
    with _stopped(session, evaluating.INTERRUPTED):
        if only_if_due and not is_due(session, ask):
            session.note("Every data set was asked on this base model already.")
            return
        found = _told(session, rerun(session, ask))
        if found.failure is not None:
            raise typer.Exit(FAILED)
        if found.shifted:
            raise typer.Exit(SHIFTED)


def _keep(session: Session, ask: Ask, pace: Pace) -> None:
    """Rerun until somebody stops it; what may pass is waited for."""
    by_clock = pace.every < math.inf
    due, seen = time.monotonic() if by_clock else math.inf, None
    with _stopped(session, 0):
        while True:
            left = math.inf
            try:
                now, served = time.monotonic(), base_of(session.api.get("/server").data)
                if now >= due or _new(session, ask, seen, served):
                    _told(session, rerun(session, ask))
                    due = now + pace.every
                seen, left = served, due - time.monotonic()
            except SoftpromptError as error:
                if not _passes(error):
                    raise
                session.note(f"{_clock()} {error.message} Looking again in {pace.look:g} s.")
            time.sleep(max(0.0, min(pace.look, left)))


def _new(session: Session, ask: Ask, seen: Base | None, served: Base) -> bool:
    """Whether another base model is served than at the last look, or than any run was made on."""
    if seen is None:
        return is_due(session, ask)
    return not same_base(seen, served)


def _told(session: Session, found: Found) -> Found:
    data = found.to_json()
    session.show(Answer(200, json.dumps(data), data), drift_views.found)
    sys.stdout.flush()
    return found


def _passes(error: SoftpromptError) -> bool:
    """Whether an error may be over at the next look: the server is away, or just starting."""
    if isinstance(error, ApiError):
        return error.http_status >= _SERVER_ERRORS
    return error.code in _PASSING


@contextmanager
def _stopped(session: Session, status: int) -> Iterator[None]:
    """End with ``status`` on Ctrl-C and SIGTERM; what was answered is kept."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except KeyboardInterrupt:
        session.note("Stopped. What was answered is kept; the same command goes on from there.")
        raise typer.Exit(status) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(_number: int, frame: FrameType | None) -> None:
    """Do what Ctrl-C would do now: while versions are asked, asyncio ends that in good order."""
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):  # ignored, as of a job in a shell's background
        raise KeyboardInterrupt
    handler(signal.SIGINT, frame)


def _dataset(given: str) -> Dataset:
    """``FILE``, or ``NAME=FILE`` where there is no file of that whole name."""
    name, equals, file = given.partition("=")
    if equals and not Path(given).exists():
        return load_dataset(Path(file), name)
    return load_dataset(Path(given))


def _listed(versions: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (versions or "").split(",") if name.strip())


def _clock() -> str:
    return time.strftime("%H:%M:%S")
