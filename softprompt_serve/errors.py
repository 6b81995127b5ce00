"""One small tree of errors; each knows its HTTP status and its stable code.

The server maps the tree to OpenAI's error shape in one place (``app.py``); the CLI prints
``message`` as it is. A message says what was found, what was expected and, where it helps, what
to do. Nothing here imports a web framework.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_CHARS: Final = 2000
_LAST_CHARS: Final = 500


class SoftpromptError(Exception):
    """Base of all errors that this package raises on purpose.

    A message quotes what was sent, which may be megabytes: what is over ``MAX_CHARS`` is cut out of
    its middle, and of ``param``.

    Attributes:
        message: one or two sentences for a person.
        code: stable, snake_case, for programs.
        status: the HTTP status it maps to.
        param: the request field, form part or setting that was wrong, if one was.
        retry_after: seconds after which trying again makes sense, or None.
        details: what else a program may want to know, as plain JSON data, or None.
    """

    details: Mapping[str, Any] | None = None
    status: ClassVar[int] = 500
    default_code: ClassVar[str] = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        self.message = _shortened(message)
        super().__init__(self.message)
        self.code = code or self.default_code
        self.param = None if param is None else _shortened(param)
        self.retry_after = retry_after

    @property
    def type(self) -> str:
        """OpenAI's ``error.type`` for this status."""
        if self.status in _TYPES:
            return _TYPES[self.status]
        return "invalid_request_error" if self.status < _SERVER_ERRORS else "server_error"

    def body(self) -> dict[str, dict[str, Any]]:
        """The error in OpenAI's shape: ``{"error": {message, type, param, code}}``, and details."""
        error: dict[str, Any] = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        if self.details is not None:
            error["details"] = dict(self.details)
        return {"error": error}


def _shortened(text: str) -> str:
    """``text``, or its beginning and its end where it has more than ``MAX_CHARS``."""
    if len(text) <= MAX_CHARS:
        return text
    return f"{text[: MAX_CHARS - _LAST_CHARS - 1]}…{text[-_LAST_CHARS:]}"


_SERVER_ERRORS = 500
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class BadRequest(SoftpromptError):
    """A request, artifact, record or name that can't be accepted (400)."""

    status = 400
    default_code = "invalid_request"


class Unauthorized(SoftpromptError):
    """No bearer token, or not ours (401)."""

    status = 401
    default_code = "invalid_admin_token"


class Forbidden(SoftpromptError):
    """A token that is ours, but not for this (403)."""

    status = 403
    default_code = "token_scope"


class NotFound(SoftpromptError):
    """A prompt, version or alias that does not exist (404)."""

    status = 404
    default_code = "not_found"


class MethodNotAllowed(SoftpromptError):
    """A route that is there, but not for this method (405)."""

    status = 405
    default_code = "method_not_allowed"

    def __init__(self, message: str, *, allow: Sequence[str]) -> None:
        """``allow``: the methods that are answered."""
        super().__init__(message)
        self.allow = tuple(allow)


class Conflict(SoftpromptError):
    """Immutable content would change, or something is still in use (409)."""

    status = 409
    default_code = "conflict"


class Stale(SoftpromptError):
    """The caller's ``If-Match`` is not the present generation (412)."""

    status = 412
    default_code = "stale_generation"


class Invalid(SoftpromptError):
    """A document that is well formed but means nothing here; ``param`` names the field (422)."""

    status = 422
    default_code = "invalid_rollout"


class TooLarge(SoftpromptError):
    """An upload over the limit (413)."""

    status = 413
    default_code = "upload_too_large"


class TooMany(SoftpromptError):
    """Too often in too short a time (429, with Retry-After)."""

    status = 429
    default_code = "too_many_requests"


class Unavailable(SoftpromptError):
    """Can't be served now, but perhaps later (503, with Retry-After)."""

    status = 503
    default_code = "unavailable"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = 1,
    ) -> None:
        super().__init__(message, code=code, param=param, retry_after=retry_after)


class StartupRefused(SoftpromptError):
    """The server must not start, or must not become ready; says which condition failed."""

    default_code = "startup_refused"
