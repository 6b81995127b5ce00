"""Commands that look at a rollout, and the group ``rollout`` that holds them and the changes."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

import typer

from softprompt_serve.cli import rollout_changes, rollout_views
from softprompt_serve.cli.client import rollout_path
from softprompt_serve.cli.documents import given, headers_of
from softprompt_serve.cli.prompts import NamedPrompt  # noqa: TC001 - typer reads the annotations
from softprompt_serve.cli.session import FAILED, Json, Token, Url, connected
from softprompt_serve.cli.watching import watch


def register(app: typer.Typer) -> None:
    """Add the group to ``app``."""
    group = typer.Typer(
        name="rollout",
        help="Split a prompt's traffic between versions, and move it.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    group.command()(show)
    rollout_changes.register(group)
    group.command()(explain)
    group.command()(history)
    group.command("watch")(watch_)
    app.add_typer(group)


def show(
    prompt: NamedPrompt,
    *,
    spec: Annotated[
        bool, typer.Option("--spec", help="Only the document, as JSON that `rollout set` takes.")
    ] = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Show how a prompt's traffic is split now."""
    with connected(url, token, as_json=as_json) as session:
        answer = session.api.get(rollout_path(prompt))
        if spec:
            session.document(answer.data["spec"])
        else:
            session.show(answer, rollout_views.rollout)


def explain(
    prompt: NamedPrompt,
    *,
    version: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Pinned, by name or header.")
    ] = None,
    sticky_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Who asks: a user, a conversation.")
    ] = None,
    cohort: Annotated[
        str | None, typer.Option(metavar="COHORT", help="As in x-softprompt-cohort.")
    ] = None,
    route: Annotated[
        str | None, typer.Option(metavar="ROUTE", help="As in x-softprompt-route.")
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Another header; repeatable.")
    ] = None,
    tools: Annotated[bool, typer.Option("--tools", help="Tools are offered.")] = False,
    visible_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Tokens of the rendered request.")
    ] = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Say which version would answer a request, and why."""
    with connected(url, token, as_json=as_json) as session:
        body = given(
            version=version,
            sticky_key=sticky_key,
            cohort=cohort,
            route=route,
            headers=headers_of(header) if header else None,
            tools=tools or None,
            visible_tokens=visible_tokens,
        )
        path = rollout_path(prompt, "explain")
        answer = session.api.call("POST", path, query={}, json=body or {})
        session.show(answer, rollout_views.explained)


def history(
    prompt: NamedPrompt, url: Url = None, token: Token = None, as_json: Json = False
) -> None:
    """Show how it was split before, newest first."""
    with connected(url, token, as_json=as_json) as session:
        session.show(session.api.get(rollout_path(prompt, "history")), rollout_views.history)


def watch_(
    prompt: NamedPrompt,
    *,
    until_done: Annotated[
        bool,
        typer.Option(
            "--until-done",
            help="End when it is promoted, rolled back or without steps, and applied; "
            "exit 1 if it was rolled back.",
        ),
    ] = False,
    every: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.01, help="How often to look.")
    ] = 1.0,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Watch a rollout until Ctrl-C.

    Weights, step, gates and replicas.

    A live table on a terminal, else a line for each change.
    """
    # Ctrl-C is how watching ends, not a failure.
    with connected(url, token, as_json=as_json) as session, suppress(KeyboardInterrupt):
        answer = watch(session, prompt, every=every, until_done=until_done)
        if answer.data["state"] == "rolled_back":
            raise typer.Exit(FAILED)
