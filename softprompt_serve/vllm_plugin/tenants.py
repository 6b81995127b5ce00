"""Gives each request the cache salt of its tenant, before vLLM renders it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

from softprompt_serve.access.tenants import tenant_salt

if TYPE_CHECKING:
    from softprompt_serve.server.scope import RequestScope

_OFF: Final = "off"
_TOKEN: Final = "token"  # noqa: S105 - how tenants are told apart
_HEADER: Final = "header:"


class Tenants:
    """Tells tenants apart as ``SOFTPROMPT_TENANT_SALT`` says.

    Args:
        by: ``off``, ``token`` or ``header:NAME``. Requests that show neither are one tenant.
    """

    def __init__(self, by: str) -> None:
        self._by = by

    def salt(self, request: Any, scope: RequestScope) -> None:
        """Replace what the request brought by its tenant's salt, which is made of that as well.

        It goes into the request itself, so that vLLM's renderer, a shadow's copy and the version's
        own salt all have it; and once, though a request may be rendered for several turns.
        """
        if self._by == _OFF:
            return
        if scope.salt is None:
            scope.salt = tenant_salt(self._tenant(scope), getattr(request, "cache_salt", None))
        request.cache_salt = scope.salt

    def _tenant(self, scope: RequestScope) -> str:
        if self._by != _TOKEN:
            return scope.headers.get(self._by.removeprefix(_HEADER), "")
        if scope.caller is not None and scope.caller.id:
            return scope.caller.id  # stays through rotations
        given = scope.headers.get("authorization") or scope.headers.get("x-api-key") or ""
        return hashlib.sha256(given.encode(errors="surrogatepass")).hexdigest()
