"""What every command shares: where the server is, how to print, and how errors end it."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from softprompt_serve.cli.client import Answer, Api, ApiError, Unreachable
from softprompt_serve.errors import SoftpromptError
from softprompt_serve.server.auth import TOKEN_FILE, stored_token
from softprompt_serve.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import RenderableType

FAILED, UNREACHABLE = 1, 2
_UNAUTHORIZED = 401
_WIDE = 160
"""Columns where the output is no terminal, so that a table stays one line a row."""

Url = Annotated[
    str | None,
    typer.Option(
        "--url", metavar="URL", help="The server; else SOFTPROMPT_URL.", show_default=False
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        metavar="TOKEN",
        help="A token of the server; else SOFTPROMPT_ADMIN_TOKEN, else the file in SOFTPROMPT_HOME.",
        show_default=False,
    ),
]
Reason = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Kept with the change.", show_default=False),
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Overrule the prompt's policy; say why with --reason."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the API's JSON and nothing else.")]


@dataclass(frozen=True, slots=True)
class Session:
    """One command's connection and output."""

    api: Api
    as_json: bool

    def show(self, answer: Answer, view: Callable[[Any], RenderableType]) -> None:
        """Print the answer: its JSON as it came, or ``view`` of its data."""
        if self.as_json:
            sys.stdout.write(answer.text.rstrip("\n") + "\n")
        else:
            output().print(view(answer.data))

    def document(self, data: Any) -> None:
        """Print a document of the answer's, as a person writes it to send it again."""
        sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")

    def note(self, text: str) -> None:
        """Say something that is not the answer; on stderr where the answer is JSON."""
        output(stderr=self.as_json).print(text)


def output(*, stderr: bool = False) -> Console:
    """A console that prints text as it is, markup and emoji codes of a prompt's text included."""
    console = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _WIDE)
    return console


def settings_for(url: str | None, token: str | None) -> tuple[Settings, str, str | None]:
    """Settings, address and token, in the order option, environment, token file.

    Raises:
        BadRequest: ``invalid_setting``.
        Unreachable: the token file is there but can't be read.
    """
    settings = load_settings()
    try:
        found = token if token is not None else stored_token(settings)
    except OSError as error:
        msg = f"The admin token can't be read: {error}. Give SOFTPROMPT_ADMIN_TOKEN or --token."
        raise Unreachable(msg, code="admin_token_unreadable") from error
    return settings, url or settings.url, found


@contextmanager
def connected(url: str | None, token: str | None, *, as_json: bool) -> Iterator[Session]:
    """A session; an error in it is printed and ends the command.

    Exit status: 1 for an error of the server or of the input, 2 if no server was reached.
    """
    with reported(as_json=as_json):
        settings, address, found = settings_for(url, token)
        with Api(address, found, drain_seconds=settings.drain_seconds) as api:
            try:
                yield Session(api, as_json)
            except ApiError as error:
                if error.http_status == _UNAUTHORIZED:
                    error.message += _token_hint(settings, given=token, found=found)
                raise


@contextmanager
def reported(*, as_json: bool) -> Iterator[None]:
    """Print an error of ours on stderr (as JSON: on stdout), and exit."""
    try:
        yield
    except SoftpromptError as error:
        if as_json:
            text = error.answer if isinstance(error, ApiError) else json.dumps(error.body())
            sys.stdout.write(text.rstrip("\n") + "\n")
        else:
            console = output(stderr=True)
            console.print(f"error: {error.message}", style="red", soft_wrap=True)
            console.print(f"code: {error.code}", style="dim")
        status = UNREACHABLE if isinstance(error, Unreachable) else FAILED
        raise typer.Exit(status) from error


def _token_hint(settings: Settings, *, given: str | None, found: str | None) -> str:
    file = settings.home_dir / TOKEN_FILE
    if given is not None:
        return " It was given with --token."
    if found is None:
        return (
            f" There is none in SOFTPROMPT_ADMIN_TOKEN nor in {file}; the server's own is in its "
            "SOFTPROMPT_HOME."
        )
    where = "SOFTPROMPT_ADMIN_TOKEN" if settings.admin_token is not None else str(file)
    return f" It was taken from {where}; the server's SOFTPROMPT_HOME may be another."
