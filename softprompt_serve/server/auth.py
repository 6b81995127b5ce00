"""Who is let in: the one admin token, and those that the catalogue keeps.

The admin token is from the settings, else generated once in ``SOFTPROMPT_HOME`` with mode 0600.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from softprompt_serve.access.scopes import ADMIN, FEEDBACK
from softprompt_serve.access.tokens import NO_TOKENS
from softprompt_serve.errors import StartupRefused

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import SecretStr

    from softprompt_serve.access.scopes import Grant
    from softprompt_serve.access.tokens import Keyring
    from softprompt_serve.settings import Settings

UNGUESSABLE: Final = 32
"""Characters from which a token of the settings is taken for a random one."""

TOKEN_FILE = "admin-token"  # noqa: S105 - a file's name


def admin_token(settings: Settings) -> str:
    """The token that admin calls must bear; generated and stored on first use.

    Raises:
        StartupRefused: ``admin_token_unsafe`` if others on the machine could read the file.
    """
    if settings.admin_token is not None:
        return settings.admin_token.get_secret_value()
    path = settings.home_dir / TOKEN_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    _create(path)
    if path.stat().st_mode & 0o077:
        msg = f"{path} can be read by others on this machine; run: chmod 600 {path}"
        raise StartupRefused(msg, code="admin_token_unsafe")
    return path.read_text().strip()


def stored_token(settings: Settings) -> str | None:
    """The token that a client on this machine may use, or None if there is none to find."""
    if settings.admin_token is not None:
        return settings.admin_token.get_secret_value()
    path = settings.home_dir / TOKEN_FILE
    return path.read_text().strip() if path.is_file() else None


@dataclass(frozen=True, slots=True)
class Doorkeeper:
    """Knows all tokens that open anything here.

    Attributes:
        admin: the one token of the settings or of ``SOFTPROMPT_HOME``; it always works.
        feedback: ``SOFTPROMPT_FEEDBACK_TOKEN``, or None.
        keyring: those in the catalogue, as of now.
    """

    admin: Callable[[], str]
    feedback: SecretStr | None = None
    keyring: Callable[[], Keyring] = lambda: NO_TOKENS

    def grant(self, given: str) -> Grant | None:
        """What the bearer of a token may do; None if it opens nothing. In constant time."""
        if not given:
            return None
        admin, feedback = self.admin(), self.feedback
        lesser = None if feedback is None else feedback.get_secret_value()
        if _same(given, admin):
            return replace(ADMIN, guessable=len(admin) < UNGUESSABLE)
        if lesser is not None and _same(given, lesser):
            return replace(FEEDBACK, guessable=len(lesser) < UNGUESSABLE)
        return self.keyring().find(given, time.time())


def _same(given: str, expected: str) -> bool:
    return secrets.compare_digest(
        given.encode(errors="surrogateescape"), expected.encode(errors="surrogateescape")
    )


def presented(authorization: str | None) -> str:
    """The token in ``Bearer TOKEN`` or ``Basic`` with it as password; "" if there is none.

    Basic is for callers that know an address and no header: many clients send what stands before
    the ``@`` of ``http://user:TOKEN@host/`` (RFC 7617); whoever the user is.
    """
    scheme, _, credentials = (authorization or "").partition(" ")
    credentials = credentials.strip()
    if scheme.lower() == "bearer":
        return credentials
    if scheme.lower() != "basic":
        return ""
    try:
        pair = base64.b64decode(credentials, validate=True)
    except (binascii.Error, ValueError):
        return ""
    return pair.partition(b":")[2].decode(errors="surrogateescape")


def _create(path: Path) -> None:
    """Write a fresh token; processes that start together agree on the first one written."""
    if path.exists():
        return
    # A name of its own: two containers on one volume may have the same process id.
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f"{TOKEN_FILE}.")  # mode 0600
    draft = Path(name)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(32) + "\n")
        file.flush()
        os.fsync(descriptor)
    try:
        os.link(draft, path)  # fails if another process was first, and then its token counts
    except FileExistsError:
        pass
    finally:
        draft.unlink()
