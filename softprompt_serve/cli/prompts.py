"""Commands on prompts, versions and aliases: each is one call of the running server's API."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated

import typer

from softprompt_serve.artifact.content import Kind  # noqa: TC001 - typer reads the annotations
from softprompt_serve.cli import upload, views
from softprompt_serve.cli.client import alias_path, prompt_path, version_path
from softprompt_serve.cli.documents import given
from softprompt_serve.cli.session import Force, Json, Reason, Token, Url, connected, output
from softprompt_serve.errors import BadRequest

NamedPrompt = Annotated[str, typer.Argument(metavar="PROMPT", show_default=False)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]
Label = Annotated[str, typer.Argument(metavar="PROMPT@VERSION", show_default=False)]

_CREATED = 201


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command("import")(import_)
    app.command("list")(list_)
    for command in (show, alias, unalias, verify, load, unload, remove, residency, audit):
        app.command()(command)


def import_(
    prompt: Annotated[
        str, typer.Option("--prompt", "-p", metavar="PROMPT", help="Prompt it shall answer for.")
    ],
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="[PATH]",
            help="A .safetensors file, a PEFT adapter's folder or its zip; or a .txt file with a "
            "hard version's text.",
            show_default=False,
        ),
    ] = None,
    *,
    version: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Its name; else the next v<number>.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Release record, a JSON file.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A hard version's text; or after a tensor.")
    ] = None,
    text_file: Annotated[
        Path | None, typer.Option("--text-file", metavar="FILE", help="The same, from a file.")
    ] = None,
    kind: Annotated[
        Kind | None, typer.Option(help="Inferred from what is given, but for base.")
    ] = None,
    alias: Annotated[
        str | None, typer.Option(metavar="NAME", help="Point this alias at it afterwards.")
    ] = None,
    from_mlflow: Annotated[
        str | None,
        typer.Option(
            "--from-mlflow",
            metavar="RUN",
            help="In place of PATH: a run's id, runs:/ID/PATH or models:/NAME/VERSION, whose "
            "adapter and parameters become version and record.",
        ),
    ] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Where MLflow is; else MLFLOW_TRACKING_URI."),
    ] = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Import a version from a file, a folder, a text or a run in MLflow.

    Versions are immutable: the same content again is the same version, other content under its
    name is refused.
    """
    with connected(url, token, as_json=as_json) as session, ExitStack() as stack:
        if text is not None and text_file is not None:
            msg = "Give --text or --text-file, not both."
            raise BadRequest(msg, code="invalid_upload")
        facts = upload.read_text(record) if record is not None else None
        if from_mlflow is not None:
            if path is not None:
                msg = "Give PATH or --from-mlflow, not both."
                raise BadRequest(msg, code="invalid_upload")
            source = upload.from_mlflow(from_mlflow, tracking_uri, facts)
            path, facts, remarks = stack.enter_context(source)
            for remark in remarks:
                session.note(remark)
        given = upload.read_text(text_file) if text_file is not None else text
        tensor, form = upload.as_parts(path, kind=kind, text=given)
        if version is not None:
            form["version"] = version
        if facts is not None:
            form["record"] = facts
        answer = upload.import_version(session.api, prompt, tensor, form, output(stderr=True))
        created = answer.status == _CREATED
        if alias is not None:
            named = answer.data["version"]
            session.api.change("PUT", alias_path(prompt, alias), json_body={"version": named})
            answer = session.api.get(version_path(prompt, named))
        session.show(answer, partial(views.imported, created=created))


def list_(url: Url = None, token: Token = None, as_json: Json = False) -> None:
    """List all prompts and their versions."""
    with connected(url, token, as_json=as_json) as session:
        session.show(session.api.get("/prompts"), views.prompts)


def show(
    name: Annotated[str, typer.Argument(metavar="PROMPT[@VERSION]", show_default=False)],
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Show a prompt, or a version with its release record.

    VERSION may be an alias.
    """
    with connected(url, token, as_json=as_json) as session:
        prompt, at, version = name.partition("@")
        if at:
            session.show(session.api.get(version_path(prompt, version)), views.version)
        else:
            session.show(session.api.get(prompt_path(prompt)), views.prompt)


def alias(
    prompt: NamedPrompt,
    name: Annotated[str, typer.Argument(metavar="ALIAS", help="Such as production.")],
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Or another alias.")],
    *,
    reason: Reason = None,
    force: Force = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Point an alias at a version.

    When this returns, new requests follow it; those in flight finish on what they began with. One that
    the prompt's policy guards is moved to a version that passes.
    """
    with connected(url, token, as_json=as_json) as session:
        path = alias_path(prompt, name)
        body = given(version=version, reason=reason, force=force or None)
        session.show(session.api.change("PUT", path, json_body=body), views.alias)


def unalias(
    prompt: NamedPrompt,
    name: Annotated[str, typer.Argument(metavar="ALIAS")],
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Forget an alias."""
    with connected(url, token, as_json=as_json) as session:
        session.show(session.api.change("DELETE", alias_path(prompt, name)), views.removed)


def verify(
    label: Label,
    *,
    reason: Reason = None,
    force: Force = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Let a version have traffic on the base model that is served now.

    It is judged by its prompt's policy on evidence for that base model. A version whose evaluation
    passes is let through by itself; this says what is missing.
    """
    with connected(url, token, as_json=as_json) as session:
        path = f"{version_path(*split_label(label))}/verify"
        body = given(reason=reason, force=force or None)
        session.show(session.api.change("POST", path, json_body=body), views.verified)


def load(label: Label, url: Url = None, token: Token = None, as_json: Json = False) -> None:
    """Make a version resident on all workers."""
    _set_resident(label, url, token, as_json=as_json, resident=True)


def unload(label: Label, url: Url = None, token: Token = None, as_json: Json = False) -> None:
    """Free a version's rows; it stays stored.

    New requests no longer find it; waits for those in flight, at most the server's
    SOFTPROMPT_DRAIN_SECONDS.
    """
    _set_resident(label, url, token, as_json=as_json, resident=False)


def remove(
    label: Label,
    yes: Yes = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Remove a version for good.

    New requests no longer find it; waits for those in flight, at most the server's
    SOFTPROMPT_DRAIN_SECONDS.
    """
    with connected(url, token, as_json=as_json) as session:
        prompt, version = split_label(label)
        path = version_path(prompt, version)
        if not yes:
            confirm_removal(label)
        session.show(session.api.change("DELETE", path), views.removed)


def residency(url: Url = None, token: Token = None, as_json: Json = False) -> None:
    """Show what each worker holds now."""
    with connected(url, token, as_json=as_json) as session:
        session.show(session.api.get("/residency"), views.residency)


def audit(
    *,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", metavar="PROMPT", help="Of this one only.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 100,
    before: Annotated[
        int | None, typer.Option(min=1, metavar="ID", help="Older than this entry.")
    ] = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Show who changed what, newest first."""
    with connected(url, token, as_json=as_json) as session:
        answer = session.api.get("/audit", prompt=prompt, limit=limit, before=before)
        session.show(answer, views.audit)


def _set_resident(
    label: str, url: str | None, token: str | None, *, as_json: bool, resident: bool
) -> None:
    with connected(url, token, as_json=as_json) as session:
        path = f"{version_path(*split_label(label))}/residency"
        answer = session.api.change("PUT", path, json_body={"resident": resident})
        session.show(answer, views.state)


def split_label(label: str) -> tuple[str, str]:
    """``support@v1`` → ``("support", "v1")``.

    Raises:
        BadRequest: ``invalid_name``.
    """
    prompt, at, version = label.partition("@")
    if not at:
        msg = f"{label!r} names no version; expected PROMPT@VERSION, such as {label}@v1."
        raise BadRequest(msg, code="invalid_name", param="version")
    return prompt, version


def can_ask() -> bool:
    """Whether a person is there to answer."""
    return sys.stdin.isatty()


def confirm_removal(what: str) -> None:
    """Ask a person whether something shall be removed; "no" ends the command.

    Raises:
        BadRequest: ``confirmation_needed``: nobody is there to answer.
    """
    if not can_ask():
        msg = f"Removing {what} needs --yes where nobody can be asked."
        raise BadRequest(msg, code="confirmation_needed")
    typer.confirm(f"Remove {what} for good?", abort=True, err=True)
