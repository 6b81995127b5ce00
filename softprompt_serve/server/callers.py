"""Who may use which model: the gate before vLLM's own endpoints, and what the request path asks.

With ``SOFTPROMPT_CALLER_ACCESS=tokens`` each call of an endpoint bears a token, and a token may be
for some prompts alone. A model that it is not for is answered exactly as one that does not exist,
by the same code, before anything else about it is looked up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from starlette.datastructures import Headers

from softprompt_serve.access.scopes import NOBODY
from softprompt_serve.errors import BadRequest, Forbidden, NotFound, SoftpromptError, Unauthorized
from softprompt_serve.router.choose import split_model
from softprompt_serve.server import scope as request_scope
from softprompt_serve.server.auth import presented
from softprompt_serve.server.refusals import error_response, speaks_anthropic
from softprompt_serve.server.scope import COVERED, route_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Receive, Scope, Send

    from softprompt_serve.access.scopes import Grant
    from softprompt_serve.access.scopes import Scope as TokenScope
    from softprompt_serve.registry.snapshot import Snapshot
    from softprompt_serve.server.door import Door
    from softprompt_serve.server.scope import RequestScope
    from softprompt_serve.server.service import Service

OPEN: Final = frozenset(
    {"/health", "/ping", "/version", "/docs", "/docs/oauth2-redirect", "/openapi.json", "/redoc"}
)
"""What says nothing of prompts or callers."""

ROUTES: Final[dict[str, TokenScope]] = {
    **dict.fromkeys(COVERED, "caller"),
    **dict.fromkeys(
        (
            "/v1/models",
            "/tokenize",
            "/detokenize",
            "/v1/chat/completions/batch",
            "/v1/messages/count_tokens",
        ),
        "caller",
    ),
    "/metrics": "reader",  # its labels name prompts and versions
}
"""What each of vLLM's endpoints takes; one that is not here takes ``admin``."""

OURS: Final = "/softprompts"
_API_KEY: Final = "x-api-key"
_POLICY_VIOLATION: Final = 1008
"""Of RFC 6455."""


class CallerGate:
    """Asks for a token before vLLM's endpoints, and notes for the request path whose it is."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        """Guard ``app``."""
        self.app = app
        self.door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on, or refuse it."""
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
            return
        path = route_path(scope)
        ours = path == OURS or path.startswith(f"{OURS}/")  # with a gate of its own
        if scope["type"] != "http" or scope["method"] == "OPTIONS" or ours or path in OPEN:
            await self.app(scope, receive, send)
            return
        try:
            request_scope.current().caller = self._admit(scope, path)
        except SoftpromptError as error:
            anthropic = speaks_anthropic(path)
            await error_response(error, anthropic=anthropic)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _admit(self, scope: Scope, path: str) -> Grant:
        headers = Headers(scope=scope)
        given = presented(headers.get("authorization")) or headers.get(_API_KEY, "")
        if not given:
            msg = "Send a token of this server as API key: `Authorization: Bearer TOKEN`."
            raise Unauthorized(msg, code="missing_api_key")
        if (grant := self.door.admit(given, scope)) is None:
            msg = "This is no token of this server, or one that has expired or was revoked."
            raise Unauthorized(msg, code="invalid_api_key")
        needed = ROUTES.get(path, "admin")
        if not grant.may(needed):
            msg = f"This token may not call {path}; it takes the scope {needed}."
            raise Forbidden(msg, code="token_scope")
        if needed == "reader" and grant.bound:
            msg = f"{path} shows all prompts, and this token is for some alone."
            raise Forbidden(msg, code="token_prompts")
        return grant


@dataclass(frozen=True, slots=True)
class Callers:
    """Which caller may use which model. Pure but for the snapshot, which is in memory.

    Attributes:
        snapshot: the catalogue as of now.
        base_names: by which the plain base model is served.
        asked: whether callers are asked for tokens at all.
    """

    snapshot: Callable[[], Snapshot]
    base_names: frozenset[str]
    asked: bool

    def of(self, scope: RequestScope) -> Grant | None:
        """Whose request it is; None where nobody is asked, nobody's where the gate was passed by."""
        if not self.asked:
            return None
        return scope.caller if scope.caller is not None else NOBODY

    def check_model(self, scope: RequestScope, model: str | None) -> None:
        """Refuse a model that the caller may not use, or that does not exist, with one answer.

        Raises:
            NotFound: ``model_not_found``.
        """
        if self.of(scope) is None:
            return
        if not model or model in self.base_names:
            allowed = self.sees_base(scope)
        else:
            name = split_model(model)[0]
            allowed = self.sees(scope, name) and name in self.snapshot().prompts
        if not allowed:
            msg = f"The model `{model or ''}` does not exist."
            raise NotFound(msg, code="model_not_found", param="model")

    def check_request(self, scope: RequestScope, model: str | None, previous: str | None) -> None:
        """As :meth:`check_model`; and refuse to go on from a kept answer, which may be anybody's.

        Raises:
            NotFound: ``model_not_found``.
            BadRequest: ``softprompt_unsupported_field``.
        """
        self.check_model(scope, model)
        if previous is not None and self.of(scope) is not None:
            msg = "Kept answers are not kept apart by caller; send the conversation instead."
            code = "softprompt_unsupported_field"
            raise BadRequest(msg, code=code, param="previous_response_id")

    def sees(self, scope: RequestScope, prompt: str) -> bool:
        """Whether a prompt is one of the caller's, whether it exists or not."""
        caller = self.of(scope)
        return caller is None or (caller.may("caller") and caller.covers(prompt))

    def sees_base(self, scope: RequestScope) -> bool:
        """Whether the plain base model is."""
        caller = self.of(scope)
        return caller is None or (caller.may("caller") and caller.covers_base)


def callers_of(service: Service) -> Callers:
    """As the service's settings say."""
    asked = service.settings.caller_access == "tokens"
    return Callers(lambda: service.snapshot, service.served.names, asked)
