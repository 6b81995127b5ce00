"""What is asked for under the admin API's prefix and isn't there, answered in its own error shape.

Left to the application, these answers would look as whoever built it thinks they should.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Match, Route

from softprompt_serve.errors import MethodNotAllowed, NotFound
from softprompt_serve.server.gate import PREFIX
from softprompt_serve.server.scope import error_response, route_path

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]


async def unknown(request: Request) -> Response:
    """404, or 405 where another method would have been answered."""
    path = route_path(request.scope)
    allowed = _allowed(request)
    if not allowed:
        msg = f"There is no {path}; /docs lists what there is."
        return error_response(NotFound(msg, code="route_not_found"))
    methods = ", ".join(sorted(allowed))
    msg = f"{request.method} is not answered on {path}; expected {methods}."
    answer = error_response(MethodNotAllowed(msg))
    answer.headers["allow"] = methods
    return answer


def _allowed(request: Request) -> set[str]:
    return {
        method
        for route in request.app.routes
        if isinstance(route, Route) and route.endpoint is not unknown
        if route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods or ()
    }


UNKNOWN = Route(f"{PREFIX}/{{rest:path}}", unknown, methods=_METHODS, include_in_schema=False)
"""To be added last: it takes everything."""
