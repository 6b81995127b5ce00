"""``migrate``: bring the catalogue's database to this release's schema, or ask whether it is there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Final

import typer

from softprompt_serve.cli.session import FAILED, output, reported
from softprompt_serve.errors import Unavailable
from softprompt_serve.settings import load_settings

if TYPE_CHECKING:
    from softprompt_serve.registry.schema import Schema

_EVERY_SECONDS: Final = 1.0


def register(app: typer.Typer) -> None:
    """Add the command to the command line's root."""
    app.command("migrate")(migrate)


def migrate(
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit with 1 unless it is current.")
    ] = False,
    wait: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0.0,
            help="With --check: how long it may take to become current, or to be reached.",
        ),
    ] = 0.0,
) -> None:
    """Bring the catalogue's database to this release's schema.

    A server does the same when it starts. This is for where servers have no right to change
    tables: SOFTPROMPT_DATABASE_URL then names a role that has it. Several may run at once.
    """
    if wait and not check:
        msg = "It is for --check."
        raise typer.BadParameter(msg, param_hint="--wait")
    with reported(as_json=False):
        found = _wait(_url(), wait) if check else _upgrade(_url())
    output().print(_said(found, upgraded=not check), soft_wrap=True)
    if check and not found.current:
        raise typer.Exit(FAILED)


def _url() -> str:
    from softprompt_serve.registry.database import url_of  # noqa: PLC0415 - SQLAlchemy is slow

    settings = load_settings()
    return settings.database_url or url_of(settings.home_dir / "catalogue.db")


def _upgrade(url: str) -> Schema:
    from softprompt_serve.registry.database import Database  # noqa: PLC0415 - as above

    return Database.migrate(url)


def _wait(url: str, seconds: float) -> Schema:
    """Look until the schema is current or the time is over; the last look's answer or error."""
    from softprompt_serve.registry.database import Database  # noqa: PLC0415 - as above

    deadline = time.monotonic() + seconds
    while True:
        over = time.monotonic() >= deadline
        try:
            found = Database.look(url)
        except Unavailable:
            if over:
                raise
        else:
            if found.current or over:
                return found
        time.sleep(_EVERY_SECONDS)


def _said(schema: Schema, *, upgraded: bool) -> str:
    if schema.current:
        return f"{schema.label} is current, at {schema.newest}."
    before = "no tables" if schema.found is None else schema.found
    if upgraded:
        return f"{schema.label}: from {before} to {schema.newest}."
    return f"{schema.label} is not current: {before}, and this release needs {schema.newest}."
