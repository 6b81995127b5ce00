"""The group ``shadow``: what came of the copies that another version got."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from softprompt_serve.cli import shadow_views
from softprompt_serve.cli.client import prompt_path
from softprompt_serve.cli.prompts import NamedPrompt  # noqa: TC001 - typer reads the annotations
from softprompt_serve.cli.session import Json, Token, Url, connected


def register(app: typer.Typer) -> None:
    """Add the group to ``app``."""
    group = typer.Typer(
        name="shadow",
        help="See what a shadow answers to copies of users' requests.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    group.callback()(_group)  # typer would make a group of one command that command
    group.command()(show)
    app.add_typer(group)


def _group() -> None:
    pass


def show(
    prompt: NamedPrompt,
    *,
    samples: Annotated[
        bool, typer.Option("--samples", help="And pairs of answers, where the server keeps some.")
    ] = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Show how the shadow's answers compare with users'.

    By cohort, with 95 % intervals. Deltas are the shadow's figure minus the user's.
    """
    with connected(url, token, as_json=as_json) as session:
        answer = session.api.get(f"{prompt_path(prompt)}/shadow")
        session.show(answer, partial(shadow_views.shadow, samples=samples))
