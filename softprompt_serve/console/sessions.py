"""Who is logged in: signed cookies, so that nothing is stored and every replica reads them. Pure.

A session is ``expiry.nonce.name.mark.signature``; the signature is HMAC-SHA256 (RFC 2104) under a key
that is derived from the admin token. So all servers with the same admin token accept it, and a new one
ends every session. The mark names the access token that began it, which is looked up again each time:
a session may do what its token may do now, and ends when that is rotated or revoked.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Final

_SALT: Final = b"softprompt-serve console session 1"
_ROUNDS: Final = 200_000
"""Of PBKDF2 (RFC 8018), once per process: whoever steals a cookie must not guess a short token."""

_NONCE_BYTES: Final = 16
_MOST_CHARS: Final = 512
_EXPIRY: Final = re.compile(r"[0-9]{1,12}")

MOST_NAME_CHARS: Final = 40
_NAME: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9 ._@+-]{{0,{MOST_NAME_CHARS - 1}}}")


@dataclass(frozen=True, slots=True)
class Session:
    """A login.

    Attributes:
        name: what the person called themselves, or "".
        nonce: random; what else is bound to this login is derived from it.
        expires: Unix time.
        mark: of the access token that began it; "" for the admin token.
    """

    name: str
    nonce: str
    expires: int
    mark: str = ""

    @property
    def actor(self) -> str:
        """Who it is in the audit: ``console``, or ``console:ada``."""
        return f"console:{self.name}" if self.name else "console"


def check_name(given: str) -> str | None:
    """The name without space around it, "" for none, or None if it is not one we accept."""
    name = given.strip()
    return name if not name or _NAME.fullmatch(name) else None


class Sessions:
    """Begins sessions and reads them again.

    Args:
        token: the admin token. Deriving the key takes a tenth of a second.
    """

    def __init__(self, token: str) -> None:
        self._key = hashlib.pbkdf2_hmac("sha256", token.encode(), _SALT, _ROUNDS)

    def begin(
        self, name: str, *, now: float, seconds: float, mark: str = ""
    ) -> tuple[Session, str]:
        """A new session and the cookie that stands for it.

        Args:
            name: as :func:`check_name` returns it.
            now: Unix time.
            seconds: how long it lasts.
            mark: see :class:`Session`.
        """
        session = Session(name, secrets.token_hex(_NONCE_BYTES), int(now + seconds), mark)
        encoded = base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")
        value = f"{session.expires}.{session.nonce}.{encoded}.{mark}"
        return session, f"{value}.{self._sign('session', value)}"

    def read(self, cookie: str | None, *, now: float) -> Session | None:
        """The session that a cookie stands for; None if it is none of ours, or over."""
        if cookie is None or len(cookie) > _MOST_CHARS or not cookie.isascii():
            return None
        value, _, signature = cookie.rpartition(".")
        if not hmac.compare_digest(signature, self._sign("session", value)):
            return None
        parts = value.split(".")
        if len(parts) != len(("expiry", "nonce", "name", "mark")) or not _EXPIRY.fullmatch(
            parts[0]
        ):
            return None
        name = _decoded(parts[2])
        session = Session(name or "", parts[1], int(parts[0]), parts[3])
        return session if name is not None and now < session.expires else None

    def form_token(self, session: Session) -> str:
        """What each form of this session carries, so that no other site can send one."""
        return self._sign("form", session.nonce)

    def owns(self, session: Session, form_token: str) -> bool:
        """Whether a form was made for this session."""
        given, expected = form_token.encode(), self.form_token(session).encode()
        return hmac.compare_digest(given, expected)

    def _sign(self, purpose: str, value: str) -> str:
        message = f"{purpose}:{value}".encode()
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()


def _decoded(name: str) -> str | None:
    try:
        return base64.urlsafe_b64decode(name + "=" * (-len(name) % 4)).decode()
    except (binascii.Error, ValueError):
        return None
