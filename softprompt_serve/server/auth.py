"""The admin token: from settings, else generated once in ``SOFTPROMPT_HOME``, mode 0600."""

from __future__ import annotations

import base64
import binascii
import os
import secrets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from softprompt_serve.errors import StartupRefused, Unauthorized

if TYPE_CHECKING:
    from softprompt_serve.settings import Settings

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


def check_bearer(authorization: str | None, token: str, *, lesser: str | None = None) -> bool:
    """Accept ``Bearer TOKEN``, or ``Basic`` with any user and the token as password.

    Basic is for callers that know an address and no header: many clients send what stands before
    the ``@`` of ``http://user:TOKEN@host/`` (RFC 7617). Compared in constant time.

    Returns:
        Whether it is the admin's ``token``, and not the one that may do ``lesser`` things.

    Raises:
        Unauthorized: ``missing_admin_token`` or ``invalid_admin_token``.
    """
    given = _given(authorization or "")
    if not given:
        msg = "Admin calls need `Authorization: Bearer TOKEN` (SOFTPROMPT_ADMIN_TOKEN)."
        raise Unauthorized(msg, code="missing_admin_token")
    if secrets.compare_digest(given, token.encode()):
        return True
    if lesser is not None and secrets.compare_digest(given, lesser.encode()):
        return False
    msg = "The admin token is not the one this server expects."
    raise Unauthorized(msg, code="invalid_admin_token")


def _given(authorization: str) -> bytes:
    """The token in the header, or nothing if it holds none."""
    scheme, _, credentials = authorization.partition(" ")
    credentials = credentials.strip()
    if scheme.lower() == "bearer":
        return credentials.encode()
    if scheme.lower() != "basic":
        return b""
    try:
        pair = base64.b64decode(credentials, validate=True)
    except (binascii.Error, ValueError):
        return b""
    return pair.partition(b":")[2]


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
