"""Logging in and out, and the four changes that the console makes, each after a confirmation."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Annotated, Final, Literal

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response  # noqa: TC002 - FastAPI reads it

from softprompt_serve.console.foresight import foresee, tied
from softprompt_serve.console.gatekeeping import ROOT, CrossSite, check_origin, read_form, safe_next
from softprompt_serve.console.gates import gates_before
from softprompt_serve.console.pages import Visitor  # noqa: TC001 - FastAPI reads it
from softprompt_serve.console.sessions import MOST_NAME_CHARS, check_name
from softprompt_serve.console.web import COOKIE, ConsoleRoute, LoggedOut, Visit
from softprompt_serve.errors import BadRequest, SoftpromptError
from softprompt_serve.server import rolling
from softprompt_serve.server.promotion import Force
from softprompt_serve.server.schemas import NAME, Name

if TYPE_CHECKING:
    from softprompt_serve.registry.moves import Move, Moves

Verb = Literal["promote", "pause", "resume", "rollback"]

_MOST_REASON_CHARS: Final = 500
_MOST_DIGITS: Final = 18
_LOADING: Final = frozenset({"promote", "rollback"})
"""Changes that may send traffic to a version that is not resident here yet."""

logger = logging.getLogger(__name__)

actions = APIRouter(prefix=ROOT, route_class=ConsoleRoute, include_in_schema=False)
Form = dict[str, str]


@actions.get("/login")
async def ask(request: Request, next: str | None = None) -> Response:  # noqa: A002 - the field
    """The form, unless there is a session already."""
    visit, wanted = await Visit.of(request), safe_next(next)
    if visit.session is not None:
        return visit.go(wanted.removeprefix(ROOT))
    return visit.show("login.html", wanted=wanted, problem=None, name="")


@actions.post("/login")
async def log_in(request: Request) -> Response:
    """Begin a session with the admin token, or with any that may read."""
    check_origin(request.headers)
    visit, form = Visit(request, None, ""), await read_form(request.stream())
    wanted, given = safe_next(form.get("next")), form.get("token", "").strip()
    console = visit.console
    grant = console.door.admit(given, request.scope)
    if grant is None or not grant.may("reader"):
        if await console.throttle.punish():
            logger.warning("A login to the console was refused: no token that may read.")
        problem = "That is no token of this server that may read."
        return visit.show("login.html", status=401, wanted=wanted, problem=problem, name="")
    name = check_name(form.get("name", ""))
    if name is None:
        problem = (
            f"A name has up to {MOST_NAME_CHARS} letters, digits, spaces or . _ @ + -, and begins "
            "with a letter or digit."
        )
        return visit.show("login.html", status=422, wanted=wanted, problem=problem, name="")
    sessions = await console.sessions()
    mark = console.door.doorkeeper.keyring().mark(grant)
    session, cookie = sessions.begin(name, now=time.time(), seconds=console.seconds, mark=mark)
    logger.info("%s logged in to the console.", grant.signs(session.actor))
    response = visit.go(wanted.removeprefix(ROOT))
    _set_cookie(visit, response, cookie, console.seconds)
    return response


async def checked(request: Request) -> tuple[Visit, Form]:
    """A form that this session was given, from a page of ours.

    Raises:
        CrossSite: it comes from elsewhere.
        LoggedOut: there is no session.
        BadRequest, TooLarge: it can't be read.
    """
    check_origin(request.headers)
    visit = await Visit.of(request)
    if visit.session is None:
        raise LoggedOut
    form = await read_form(request.stream())
    sessions = await visit.console.sessions()
    if not sessions.owns(visit.session, form.get("form", "")):
        msg = "This form was not made for your session; nothing was changed. Go back and reload."
        raise CrossSite(msg)
    return visit, form


Checked = Annotated[tuple[Visit, Form], Depends(checked)]


@actions.post("/logout")
async def log_out(sent: Checked) -> Response:
    """Forget the session in this browser."""
    visit, _ = sent
    response = visit.go("/login")
    _set_cookie(visit, response, "", 0)
    return response


def _set_cookie(visit: Visit, response: Response, value: str, seconds: int) -> None:
    response.set_cookie(
        COOKIE,
        value,
        max_age=seconds,
        path=visit.root,
        secure=visit.request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )


@actions.get("/prompts/{name}/{verb}")
async def confirm(
    visit: Visitor,
    name: Name,
    verb: Verb,
    version: Annotated[str | None, Query(pattern=NAME)] = None,
) -> Response:
    """What a change would do, and the form that asks for it."""
    visit.check("POST", f"/prompts/{name}/rollout/{verb}")
    return await _confirmation(visit, name, verb, version)


@actions.post("/prompts/{name}/{verb}")
async def make(sent: Checked, name: Name, verb: Verb) -> Response:
    """Make a change, if it still does what was confirmed."""
    visit, form = sent
    visit.check("POST", f"/prompts/{name}/rollout/{verb}")
    service, session = visit.state.require_service(), visit.session
    generation = form.get("generation", "")
    if session is None or not generation.isdecimal() or len(generation) > _MOST_DIGITS:
        msg = "The form is not one of the console's; nothing was changed."
        raise BadRequest(msg, code="invalid_body")
    version, why = form.get("version") or None, _line(form.get("reason", ""))
    move = tied(_move(service.rollouts.moves, verb, version, why), form.get("tie", ""))
    if_match, actor = int(generation), visit.actor
    try:
        if verb in _LOADING:
            force = _force(form, why)
            await rolling.change(service, name, move, if_match=if_match, actor=actor, force=force)
        else:
            await rolling.make(service, name, move, if_match=if_match, actor=actor)
    except SoftpromptError as refused:
        return await _confirmation(visit, name, verb, version, refused=refused, why=why)
    return visit.go(f"/prompts/{name}", done=verb)


def _force(form: Form, why: str | None) -> Force | None:
    """Whether the gates that were shown to fail are overruled.

    Raises:
        BadRequest: ``invalid_body``: they are, and nobody says why.
    """
    if "force" not in form:
        return None
    if why is None:
        msg = "Whoever promotes a version past its gates has to say why."
        raise BadRequest(msg, code="invalid_body", param="reason")
    return Force(why, past=form["force"])


async def _confirmation(
    visit: Visit,
    name: str,
    verb: Verb,
    version: str | None,
    *,
    refused: SoftpromptError | None = None,
    why: str | None = None,
) -> Response:
    """The page before a change: what it does and what gates say of it, or why it can't be made."""
    service = visit.state.require_service()
    prompt, plan, gates, problem = service.find_prompt(name), None, None, None
    try:
        plan = await foresee(service.rollouts, name, _move(service.rollouts.moves, verb, version))
        if plan.judged is not None:
            gates = await gates_before(service, name, plan.judged)
    except SoftpromptError as error:
        problem = error
    shown = refused or problem
    return visit.show(
        "confirm.html",
        status=200 if shown is None else shown.status,
        here="overview",
        prompt=prompt,
        verb=verb,
        version=version,
        plan=plan,
        gates=gates,
        why=why or "",
        refused=refused,
        problem=problem,
        most=_MOST_REASON_CHARS,
    )


def _move(moves: Moves, verb: Verb, version: str | None, reason: str | None = None) -> Move:
    match verb:
        case "promote":
            return moves.promote(version, reason)
        case "pause":
            return moves.pause(reason)
        case "resume":
            return moves.resume(reason)
        case "rollback":
            return moves.rollback(reason)


def _line(text: str) -> str | None:
    """One line of what can be printed, cut to its bound; None if nothing is left."""
    words = "".join(c if c.isprintable() else " " for c in text).split()
    return " ".join(words)[:_MOST_REASON_CHARS] or None
