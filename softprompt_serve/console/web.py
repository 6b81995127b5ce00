"""The console as part of the application: its sessions, its pages' headers, how it shows errors."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse

from softprompt_serve.access import endpoints
from softprompt_serve.access.scopes import ADMIN, NOBODY, Grant
from softprompt_serve.console import figures
from softprompt_serve.console.assets import Assets
from softprompt_serve.console.gatekeeping import ROOT, Throttle, check_reader, safe_next
from softprompt_serve.console.sessions import Sessions
from softprompt_serve.errors import Forbidden, NotFound, SoftpromptError
from softprompt_serve.server.scope import route_path

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from starlette.requests import Request
    from starlette.responses import Response

    from softprompt_serve.console.sessions import Session
    from softprompt_serve.server.door import Door
    from softprompt_serve.server.state import AppState
    from softprompt_serve.settings import Settings

COOKIE: Final = "softprompt_console"
FRAGMENT: Final = "x-console-fragment"
"""The script's header: only the parts of a page that change."""

HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    # Not `no-referrer`: browsers then send `Origin: null` with our own forms, which over plain HTTP
    # is all there is to tell them from another site's.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_KEEP_NOTHING: Final = "no-store"
_SEE_OTHER: Final = 303
_UNAVAILABLE: Final = 503

logger = logging.getLogger(__name__)


class LoggedOut(Exception):
    """There is no session: the visitor is sent to the login."""


class Console:
    """What all pages share; lives at ``app.state.softprompt_console``.

    Args:
        settings: of this process.
        door: lets in who may log in; the admin token is asked for when it is first needed.
    """

    def __init__(self, settings: Settings, door: Door) -> None:
        self.assets = Assets.load()
        self.throttle = Throttle()
        self.seconds = settings.console_session_minutes * 60
        self.door = door
        self._sessions: Sessions | None = None
        self._pages = Environment(
            loader=PackageLoader("softprompt_serve.console"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._pages.filters.update(figures.FILTERS)

    async def sessions(self) -> Sessions:
        """Who reads and writes cookies; made once, beside the event loop."""
        if self._sessions is None:
            self._sessions = await asyncio.to_thread(Sessions, self.door.doorkeeper.admin())
        return self._sessions

    def grant(self, session: Session) -> Grant | None:
        """What the token that began a session may do now; None if it is accepted no more."""
        if not session.mark:
            return ADMIN
        return self.door.doorkeeper.keyring().by_mark(session.mark, time.time())

    def render(self, page: str, context: Mapping[str, Any]) -> str:
        """A template with its values."""
        return self._pages.get_template(page).render(**context)


class Visit:
    """One request of a person's browser."""

    def __init__(
        self, request: Request, session: Session | None, form_token: str, grant: Grant = NOBODY
    ) -> None:
        self.request = request
        self.session = session
        self.form_token = form_token
        self.grant = grant

    @classmethod
    async def of(cls, request: Request) -> Visit:
        """Read the session, if there is one.

        Raises:
            CrossSite: another site reads this.
        """
        check_reader(request.headers)
        console = _console(request)
        sessions = await console.sessions()
        session = sessions.read(request.cookies.get(COOKIE), now=time.time())
        grant = None if session is None else console.grant(session)
        if session is None or grant is None:
            return cls(request, None, "")
        return cls(request, session, sessions.form_token(session), grant)

    def check(self, method: str, path: str) -> None:
        """Refuse what this person's token may not do through the API.

        Args:
            method: of the call that would do it.
            path: of that call, below the API's prefix.

        Raises:
            Forbidden: ``token_scope`` or ``token_prompts``.
        """
        endpoint, prompt = endpoints.find(method, path)
        endpoint.check(self.grant, prompt)

    def may(self, method: str, path: str) -> bool:
        """Whether :meth:`check` would pass."""
        try:
            self.check(method, path)
        except Forbidden:
            return False
        return True

    @property
    def actor(self) -> str | None:
        """Who the audit says it was."""
        return None if self.session is None else self.grant.signs(self.session.actor)

    @property
    def console(self) -> Console:
        """What all pages share."""
        return _console(self.request)

    @property
    def state(self) -> AppState:
        """The server's."""
        state: AppState = self.request.app.state.softprompt
        return state

    @property
    def root(self) -> str:
        """The address of the console, as browsers know it: below a proxy's prefix."""
        return f"{self.request.scope.get('root_path', '').rstrip('/')}{ROOT}"

    def url(self, path: str = "/", **query: str | int | None) -> str:
        """The address of a page; a query's fields that are None are left out."""
        given = {name: value for name, value in query.items() if value is not None}
        return f"{self.root}{path}{'?' if given else ''}{urlencode(given)}"

    def show(self, page: str, *, status: int = 200, **context: Any) -> HTMLResponse:
        """A page, or its changing parts if the script asks for them."""
        shared = {
            "url": self.url,
            "asset": lambda name: self.url(f"/static/{self.console.assets.path(name)}"),
            "session": self.session,
            "actor": self.actor,
            "may": self.may,
            "form_token": self.form_token,
            "layout": "fragment.html" if FRAGMENT in self.request.headers else "layout.html",
        }
        return HTMLResponse(self.console.render(page, shared | context), status)

    def go(self, path: str, **query: str | int | None) -> RedirectResponse:
        """To another page, by GET."""
        return RedirectResponse(self.url(path, **query), _SEE_OTHER)

    def refuse(self, error: SoftpromptError, **context: Any) -> HTMLResponse:
        """An error as a page."""
        page = self.show("error.html", status=error.status, error=error, **context)
        if error.retry_after is not None:
            page.headers["retry-after"] = str(error.retry_after)
        if error.code == "starting":
            page.headers["refresh"] = "3"
        return page

    def to_login(self) -> Response:
        """Where one logs in, and comes back from; the script is only told."""
        if FRAGMENT in self.request.headers:
            return HTMLResponse("", 401)
        path = route_path(self.request.scope)
        query = self.request.url.query if self.request.method == "GET" else ""
        wanted = safe_next(f"{path}?{query}" if query else path)
        return self.go("/login", next=None if wanted == f"{ROOT}/" else wanted)


class ConsoleRoute(APIRoute):
    """Puts the console's headers on every answer, and shows errors as pages."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler."""
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                response = await handle(request)
            except LoggedOut:
                response = Visit(request, None, "").to_login()
            except (RequestValidationError, HTTPException):
                msg = "There is no such page."
                response = await _refused(request, NotFound(msg))
            except SoftpromptError as error:
                response = await _refused(request, error)
            response.headers.update(HEADERS)
            response.headers.setdefault("cache-control", _KEEP_NOTHING)
            return response

        return handled


async def _refused(request: Request, error: SoftpromptError) -> Response:
    try:
        visit = await Visit.of(request)
    except SoftpromptError:
        visit = Visit(request, None, "")
    return visit.refuse(error)


def _console(request: Request) -> Console:
    console: Console = request.app.state.softprompt_console
    return console
