"""The group ``token``: who may do what on a server."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from softprompt_serve.access.scopes import SCOPES
from softprompt_serve.cli.session import Json, Token, Url, connected, output
from softprompt_serve.cli.views import new_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

    from softprompt_serve.cli.client import Answer

Named = Annotated[str, typer.Argument(metavar="NAME", help="The token's name.")]


def register(app: typer.Typer) -> None:
    """Add the group to ``app``."""
    group = typer.Typer(
        name="token",
        help="Make, list, rotate and revoke the tokens that a server accepts.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    group.command()(create)
    group.command("list")(list_)
    group.command()(rotate)
    group.command()(revoke)
    app.add_typer(group)


def create(
    name: Named,
    *,
    scope: Annotated[
        list[str],
        typer.Option(
            "--scope",
            "-s",
            metavar="SCOPE",
            help=f"What it may do; give it once for each of {', '.join(SCOPES)}.",
        ),
    ],
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt",
            "-p",
            metavar="PATTERN",
            help="A prompt that it is for, such as 'support*'; else all. For callers, @base is the "
            "plain base model.",
            show_default=False,
        ),
    ] = None,
    days: Annotated[
        int | None,
        typer.Option(min=1, max=36_500, help="How long it is accepted; else until it is revoked."),
    ] = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Make a token and print it, this once.

    The token alone goes to standard output: `TOKEN=$(softprompt-serve token create ci -s reader)`.
    """
    body: dict[str, Any] = {"name": name, "scopes": scope, "prompts": prompt or []}
    if days is not None:
        body["expires_at"] = (datetime.now(UTC) + timedelta(days=days)).isoformat()
    with connected(url, token, as_json=as_json) as session:
        answer = session.api.change("POST", "/tokens", json_body=body)
        _reveal(answer, as_json=as_json)


def list_(url: Url = None, token: Token = None, as_json: Json = False) -> None:
    """List all tokens, those that were revoked too; never what they are."""
    with connected(url, token, as_json=as_json) as session:
        session.show(session.api.get("/tokens"), _table)


def rotate(
    name: Named,
    *,
    grace: Annotated[
        int,
        typer.Option(
            metavar="SECONDS",
            min=0,
            max=2_592_000,
            help="How long the former one is accepted, too.",
        ),
    ] = 0,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Replace a token by a new one that may do the same, and print that."""
    with connected(url, token, as_json=as_json) as session:
        body = {"grace_seconds": grace}
        answer = session.api.change("POST", f"{_path(name)}/rotate", json_body=body)
        _reveal(answer, as_json=as_json)


def revoke(name: Named, url: Url = None, token: Token = None, as_json: Json = False) -> None:
    """Accept a token no more; its name is not used again."""
    with connected(url, token, as_json=as_json) as session:
        session.show(
            session.api.change("DELETE", _path(name)),
            lambda data: f"{data['name']} ({data['id']}) is not accepted any more.",
        )


def _reveal(answer: Answer, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(answer.text.rstrip("\n") + "\n")
        return
    sys.stdout.write(f"{answer.data['token']}\n")
    output(stderr=True).print(f"{_said(answer.data)} It is shown this once.")


def _said(data: Mapping[str, Any]) -> str:
    prompts = ", ".join(data["prompts"]) or "all prompts"
    until = f", until {data['expires_at']}" if data["expires_at"] else ""
    return f"{data['name']}: {', '.join(data['scopes'])}; {prompts}{until}."


def _table(data: Mapping[str, Any]) -> RenderableType:
    table = new_table("name", "id", "scopes", "prompts", "created", "used last", "ends", "state")
    for token in data["data"]:
        table.add_row(
            token["name"],
            token["id"],
            ", ".join(token["scopes"]),
            ", ".join(token["prompts"]) or "all",
            token["created_at"],
            token["last_used_at"] or "-",
            token["expires_at"] or "-",
            "accepted" if token["revoked_at"] is None else f"revoked {token['revoked_at']}",
        )
    return table


def _path(name: str) -> str:
    return f"/tokens/{quote(name, safe='')}"
