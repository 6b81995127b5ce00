"""Commands that change a rollout; each is one call, and can wait until all replicas are there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from softprompt_serve.cli import rollout_views as views
from softprompt_serve.cli.client import rollout_path
from softprompt_serve.cli.documents import given, read_document, weights_of
from softprompt_serve.cli.prompts import NamedPrompt  # noqa: TC001 - typer reads the annotations
from softprompt_serve.cli.session import (
    FAILED,
    Force,
    Json,
    Reason,
    Session,
    Token,
    Url,
    connected,
    output,
)
from softprompt_serve.cli.watching import applied

if TYPE_CHECKING:
    from collections.abc import Mapping

Wait = Annotated[
    float | None,
    typer.Option(
        "--wait",
        metavar="SECONDS",
        min=0.0,
        help="Return when every live replica serves it; exit 1 and say who does not, after SECONDS.",
        show_default=False,
    ),
]
IfMatch = Annotated[
    int | None,
    typer.Option(
        "--if-match",
        metavar="GENERATION",
        min=0,
        help="Change nothing if the rollout is at another generation by now.",
        show_default=False,
    ),
]


def register(group: typer.Typer) -> None:
    """Add the commands to ``rollout``."""
    group.command("set")(set_)
    for command in (weights, promote, rollback, pause, resume, remove):
        group.command()(command)


def set_(
    prompt: NamedPrompt,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="JSON or YAML; - for standard input.")
    ],
    *,
    if_match: IfMatch = None,
    wait: Wait = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Replace the whole rollout by a document.

    Arms, rules, shadow, steps and gates. The same document again changes nothing.

    \b
      {"arms": [{"version": "v3", "weight": 99}, {"version": "v4", "weight": 1}]}
    """  # noqa: D301 - the backspace is typer's mark of lines that must not be refilled
    with connected(url, token, as_json=as_json) as session:
        body = read_document(file)
        _change(session, "PUT", prompt, None, body, if_match=if_match, wait=wait)


def weights(
    prompt: NamedPrompt,
    shares: Annotated[
        list[str],
        typer.Argument(metavar="VERSION=WEIGHT", help="All arms; a version may be an alias."),
    ],
    *,
    if_match: IfMatch = None,
    wait: Wait = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Replace the arms and their weights.

    As in `rollout weights support v3=99 v4=1`. Makes the rollout if there is none; rules and shadow stay. Raising an arm's weight moves none
    of its users away from it.
    """
    with connected(url, token, as_json=as_json) as session:
        body = weights_of(shares)
        _change(session, "PUT", prompt, "weights", body, if_match=if_match, wait=wait)


def promote(
    prompt: NamedPrompt,
    version: Annotated[
        str | None,
        typer.Argument(metavar="[VERSION]", help="Else the one candidate.", show_default=False),
    ] = None,
    *,
    reason: Reason = None,
    force: Force = False,
    if_match: IfMatch = None,
    wait: Wait = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Give a version all of the traffic.

    It gets all of the split, and the alias `production`, if it passes the prompt's policy.
    """
    with connected(url, token, as_json=as_json) as session:
        body = given(version=version, reason=reason, force=force or None)
        _change(session, "POST", prompt, "promote", body, if_match=if_match, wait=wait)


def rollback(
    prompt: NamedPrompt,
    *,
    reason: Reason = None,
    if_match: IfMatch = None,
    wait: Wait = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Return all traffic to the version that had it before.

    That is the last state in which one version had all of the split. Called
    twice, it goes back once.
    """
    with connected(url, token, as_json=as_json) as session:
        body = given(reason=reason)
        _change(session, "POST", prompt, "rollback", body, if_match=if_match, wait=wait)


def pause(
    prompt: NamedPrompt,
    *,
    reason: Reason = None,
    if_match: IfMatch = None,
    wait: Wait = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Hold the steps where they are; the weights stay."""
    with connected(url, token, as_json=as_json) as session:
        body = given(reason=reason)
        _change(session, "POST", prompt, "pause", body, if_match=if_match, wait=wait)


def resume(
    prompt: NamedPrompt,
    *,
    reason: Reason = None,
    if_match: IfMatch = None,
    wait: Wait = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Go on after a pause; the step's time begins anew."""
    with connected(url, token, as_json=as_json) as session:
        body = given(reason=reason)
        _change(session, "POST", prompt, "resume", body, if_match=if_match, wait=wait)


def remove(
    prompt: NamedPrompt,
    *,
    if_match: IfMatch = None,
    wait: Wait = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Have no rollout; `production` answers alone."""
    with connected(url, token, as_json=as_json) as session:
        _change(session, "DELETE", prompt, None, None, if_match=if_match, wait=wait)


def _change(
    session: Session,
    method: str,
    prompt: str,
    verb: str | None,
    body: Mapping[str, Any] | None,
    *,
    if_match: int | None,
    wait: float | None,
) -> None:
    """Make a change, wait for it if that is asked, and show the rollout."""
    path = rollout_path(prompt, verb)
    answer = session.api.change(method, path, json_body=body, if_match=if_match)
    if wait is not None:
        answer = applied(session.api, prompt, answer, wait)
    session.show(answer, views.rollout)
    if wait is not None and not answer.data["applied"]:
        behind = "; ".join(views.behind(answer.data))
        output(stderr=True).print(f"not applied after {wait:g} s: {behind}", style="red")
        raise typer.Exit(FAILED)
