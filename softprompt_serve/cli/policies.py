"""The group ``policy``: what a prompt asks of a version before it is promoted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from softprompt_serve.cli import policy_views as views
from softprompt_serve.cli.client import prompt_path, version_path
from softprompt_serve.cli.documents import read_document
from softprompt_serve.cli.prompts import NamedPrompt  # noqa: TC001 - typer reads the annotations
from softprompt_serve.cli.session import FAILED, Json, Token, Url, connected, output
from softprompt_serve.release.policy import parse_policy

if TYPE_CHECKING:
    from softprompt_serve.cli.client import Answer


def register(app: typer.Typer) -> None:
    """Add the group to ``app``."""
    group = typer.Typer(
        name="policy",
        help="Say what a version must show before it is promoted, and check one.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    group.command()(show)
    group.command("set")(set_)
    group.command()(remove)
    group.command()(check)
    app.add_typer(group)


def show(
    prompt: NamedPrompt,
    *,
    document: Annotated[
        bool, typer.Option("--document", help="Only the policy, as JSON that `policy set` takes.")
    ] = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Show what is asked of a prompt's versions."""
    with connected(url, token, as_json=as_json) as session:
        answer = session.api.get(_path(prompt))
        if document:
            session.document(answer.data["policy"])
        else:
            session.show(answer, views.policy)


def set_(
    prompt: NamedPrompt,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="YAML or JSON; - for standard input.")
    ],
    *,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Replace a prompt's policy by a document, and show what that changes.

    If somebody else changes it meanwhile, nothing is changed.

    \b
      baseline: v1
      win: [{evaluator: exact_match, dataset: support-test, margin: 0.01}]
    """  # noqa: D301 - the backspace is typer's mark of lines that must not be refilled
    with connected(url, token, as_json=as_json) as session:
        given = read_document(file, expected="a policy such as {baseline: v1}")
        policy = parse_policy(given).to_json()
        before = session.api.get(_path(prompt)).data
        if not as_json:
            output().print(views.changes(before["policy"], policy))
        answer = session.api.change("PUT", _path(prompt), json_body=given, if_match=before["tag"])
        session.show(answer, views.policy)


def remove(
    prompt: NamedPrompt, url: Url = None, token: Token = None, as_json: Json = False
) -> None:
    """Forget a prompt's policy.

    With a learned version it then has the one that holds by default.
    """
    with connected(url, token, as_json=as_json) as session:
        session.show(session.api.change("DELETE", _path(prompt)), views.policy)


def check(
    prompt: NamedPrompt,
    version: Annotated[
        str, typer.Argument(metavar="VERSION", help="A version or an alias.", show_default=False)
    ],
    *,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Say whether a version could be promoted now.

    Shows each gate with what was found and what would satisfy it; changes nothing. Exit status
    1 if it could not.
    """
    with connected(url, token, as_json=as_json) as session:
        answer: Answer = session.api.get(f"{version_path(prompt, version)}/gates")
        session.show(answer, views.check)
        if not answer.data["promotable"]:
            raise typer.Exit(FAILED)


def _path(prompt: str) -> str:
    return f"{prompt_path(prompt)}/policy"
