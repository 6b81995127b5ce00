"""Each call of the admin API and what it takes: one table, for the gate, the tests and the docs.

A call that is not in it is refused, whatever the token.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

from softprompt_serve.errors import Forbidden, MethodNotAllowed, NotFound

if TYPE_CHECKING:
    from softprompt_serve.access.scopes import Grant, Scope

Bound = Literal["path", "inside", "nothing", "all"]

READ: Final = "GET"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One call.

    Attributes:
        method: the HTTP method.
        path: below the API's prefix, with FastAPI's placeholders.
        scope: what its bearer needs.
        bound: where its prompt is, for a token that is bound to some: ``path`` (in the path's
            ``{name}``), ``inside`` (the handler looks), ``nothing`` (it shows no prompt), or
            ``all`` (it shows them all: not for such a token).
        change: whether it counts against the limit on changes.
    """

    method: str
    path: str
    scope: Scope
    bound: Bound = "path"
    change: bool = True

    def check(self, grant: Grant, prompt: str | None) -> None:
        """Refuse a bearer whose token is not for this.

        Args:
            grant: what the bearer may do.
            prompt: the path's ``{name}``, if it has one.

        Raises:
            Forbidden: ``token_scope`` or ``token_prompts``.
        """
        if not grant.may(self.scope):
            msg = f"This token may not {self.method} {self.path}; it takes the scope {self.scope}."
            raise Forbidden(msg, code="token_scope")
        if self.bound == "path":
            grant.check_prompt(prompt)
        elif self.bound == "all" and grant.bound:
            msg = f"{self.method} {self.path} shows all prompts, and this token is for some alone."
            raise Forbidden(msg, code="token_prompts")


_P: Final = "/prompts/{name}"
_V: Final = "/prompts/{name}/versions/{version}"
_R: Final = "/prompts/{name}/rollout"

ENDPOINTS: Final = (
    Endpoint("GET", "/server", "reader", "nothing"),
    Endpoint("GET", "/prompts", "reader", "inside"),
    Endpoint("GET", _P, "reader"),
    Endpoint("GET", f"{_P}/versions", "reader"),
    Endpoint("GET", _V, "reader"),
    Endpoint("GET", f"{_V}/gates", "reader"),
    Endpoint("GET", _R, "reader"),
    Endpoint("GET", f"{_R}/history", "reader"),
    Endpoint("POST", f"{_R}/explain", "reader", change=False),
    Endpoint("GET", f"{_P}/shadow", "reader"),
    Endpoint("GET", f"{_P}/runs", "reader"),
    Endpoint("GET", f"{_P}/runs/{{run}}", "reader"),
    Endpoint("GET", f"{_P}/evaluations", "reader"),
    Endpoint("GET", f"{_P}/policy", "reader"),
    Endpoint("GET", "/responses/{response_id}", "reader", "inside"),
    Endpoint("GET", "/residency", "reader", "all"),
    Endpoint("GET", "/audit", "reader", "inside"),
    Endpoint("POST", f"{_P}/versions", "publisher"),
    Endpoint("DELETE", _V, "publisher"),
    Endpoint("GET", f"{_V}/bundle", "publisher"),
    Endpoint("POST", f"{_P}/runs", "publisher"),
    Endpoint("PUT", f"{_V}/residency", "operator"),
    Endpoint("POST", f"{_V}/verify", "operator"),
    Endpoint("PUT", f"{_P}/aliases/{{alias}}", "operator"),
    Endpoint("DELETE", f"{_P}/aliases/{{alias}}", "operator"),
    Endpoint("PUT", _R, "operator"),
    Endpoint("PUT", f"{_R}/weights", "operator"),
    Endpoint("DELETE", _R, "operator"),
    Endpoint("POST", f"{_R}/promote", "operator"),
    Endpoint("POST", f"{_R}/rollback", "operator"),
    Endpoint("POST", f"{_R}/pause", "operator"),
    Endpoint("POST", f"{_R}/resume", "operator"),
    Endpoint("POST", "/hooks/flagger/{hook}", "operator", "inside"),
    Endpoint("POST", "/feedback", "feedback", "inside", change=False),
    Endpoint("POST", "/evaluations", "feedback", "inside", change=False),
    Endpoint("DELETE", f"{_P}/runs/{{run}}", "admin"),
    Endpoint("PUT", f"{_P}/policy", "admin"),
    Endpoint("DELETE", f"{_P}/policy", "admin"),
    Endpoint("GET", "/tokens", "admin", "all"),
    Endpoint("POST", "/tokens", "admin", "all"),
    Endpoint("POST", "/tokens/{token}/rotate", "admin", "all"),
    Endpoint("DELETE", "/tokens/{token}", "admin", "all"),
)

OPEN: Final = frozenset({"/healthz", "/readyz"})
"""What takes no token."""

SMALL: Final = frozenset({"/feedback", "/evaluations"})
"""What applications call, and with little to say."""


def find(method: str, path: str) -> tuple[Endpoint, str | None]:
    """The call, and the prompt in its path if it has one.

    Args:
        method: the HTTP method.
        path: below the API's prefix.

    Raises:
        NotFound: ``route_not_found``: there is none, or nobody has said what it takes.
        MethodNotAllowed: ``method_not_allowed``: another method would be answered.
    """
    allowed = {READ} if path in OPEN else set()
    for endpoint in ENDPOINTS:
        if match := _pattern(endpoint.path).fullmatch(path):
            if endpoint.method == method:
                return endpoint, match.groupdict().get("name")
            allowed.add(endpoint.method)
    if allowed:
        msg = f"{method} is not answered on {path}; expected {', '.join(sorted(allowed))}."
        raise MethodNotAllowed(msg, allow=sorted(allowed))
    msg = f"There is no {method} {path} here; docs/api.md lists all calls."
    raise NotFound(msg, code="route_not_found")


def table() -> str:
    """The table as it stands in ``docs/security.md``, in Markdown."""
    bound = {
        "path": "its own",
        "inside": "its own",
        "nothing": "yes",
        "all": "no",
    }
    lines = ["| call | scope | token bound to prompts |", "| --- | --- | --- |"]
    lines += [f"| `{e.method} {e.path}` | {e.scope} | {bound[e.bound]} |" for e in ENDPOINTS]
    return "\n".join(lines) + "\n"


@lru_cache(maxsize=256)
def _pattern(path: str) -> re.Pattern[str]:
    """As Starlette matches a path: each placeholder is one part of it."""
    return re.compile(re.sub(r"\{([a-z_]+)\}", r"(?P<\1>[^/]+)", path))
