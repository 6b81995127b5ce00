"""Adds the admin API, the console and our middleware to vLLM's web application."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from softprompt_serve.access.pace import Pace
from softprompt_serve.console.attach import attach_console
from softprompt_serve.errors import SoftpromptError
from softprompt_serve.server.admin import probes, router
from softprompt_serve.server.auth import Doorkeeper, admin_token
from softprompt_serve.server.bundles import bundle_router
from softprompt_serve.server.callers import CallerGate
from softprompt_serve.server.door import Door
from softprompt_serve.server.evidence import evidence_router
from softprompt_serve.server.exposition import OpenMetrics
from softprompt_serve.server.feedback import feedback_router
from softprompt_serve.server.gate import AdminGate
from softprompt_serve.server.hooks import hooks_router
from softprompt_serve.server.policies import policy_router
from softprompt_serve.server.refusals import error_response
from softprompt_serve.server.rollouts import rollout_router
from softprompt_serve.server.scope import ScopeMiddleware
from softprompt_serve.server.shadow import shadow_router
from softprompt_serve.server.tokens import tokens_router

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

    from softprompt_serve.server.state import AppState


_PARTS: Final = (
    *(probes, router, rollout_router, shadow_router, feedback_router, hooks_router),
    *(bundle_router, evidence_router, policy_router, tokens_router),
)
"""The admin API. Each has its whole path, and says itself who may ask it."""


def attach(app: FastAPI, state: AppState) -> None:
    """Add our routes and middleware to vLLM's application."""
    app.state.softprompt = state
    app.add_exception_handler(SoftpromptError, _answer_error)
    for part in _PARTS:
        # Included, each route would be made a second time: a tenth of a second of every start.
        app.router.routes.extend(part.routes)
    token: list[str] = []

    def expected() -> str:
        if not token:
            token.append(admin_token(state.settings))
        return token[0]

    settings = state.settings
    doorkeeper = Doorkeeper(expected, settings.feedback_token, state.keyring)
    door = Door(doorkeeper, Pace(settings.wrong_tokens_per_minute), state.emit)
    attach_console(app, settings, door)
    app.add_middleware(OpenMetrics)
    changes = Pace(settings.changes_per_minute)
    app.add_middleware(AdminGate, door=door, max_bytes=settings.max_upload_bytes, changes=changes)
    if settings.caller_access == "tokens":
        app.add_middleware(CallerGate, door=door)
    app.add_middleware(ScopeMiddleware, events=state.events, tracing=lambda: state.tracing)


async def _answer_error(_request: Request, error: Exception) -> Response:
    """An error of ours that a handler of vLLM's let pass."""
    if not isinstance(error, SoftpromptError):
        raise error
    return error_response(error)
