"""Adds the console to the application."""

from __future__ import annotations

from typing import TYPE_CHECKING

from softprompt_serve.console.actions import actions
from softprompt_serve.console.pages import pages
from softprompt_serve.console.web import Console

if TYPE_CHECKING:
    from fastapi import FastAPI

    from softprompt_serve.server.door import Door
    from softprompt_serve.settings import Settings


def attach_console(app: FastAPI, settings: Settings, door: Door) -> None:
    """Serve the console, unless ``SOFTPROMPT_CONSOLE`` is false.

    Args:
        app: where the admin API is.
        settings: of this process.
        door: lets in who may log in.
    """
    if not settings.console:
        return
    app.state.softprompt_console = Console(settings, door)
    for part in (actions, pages):
        app.router.routes.extend(part.routes)  # as the admin API's: made once
