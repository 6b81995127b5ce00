"""What a request must show before the console believes it: where it comes from, where it goes."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlsplit

from softprompt_serve.errors import BadRequest, Forbidden, TooLarge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

ROOT: Final = "/softprompts"

FORM_BYTES: Final = 16_384
_FORM_FIELDS: Final = 20

_NAME: Final = r"[a-z0-9][a-z0-9._-]{0,62}"
_PAGE: Final = re.compile(
    rf"{ROOT}/(audit|residency|prompts/{_NAME}(/(promote|pause|resume|rollback))?)?"
    r"(\?[A-Za-z0-9=&._-]{0,256})?"
)


class CrossSite(Forbidden):
    """Another site made a browser send this (403)."""

    default_code = "cross_site"


def safe_next(given: str | None) -> str:
    """Where to go after a login: one of the console's own pages, else its first.

    Args:
        given: a path below the server's root path, with its query, from whoever.
    """
    return given if given and _PAGE.fullmatch(given) else f"{ROOT}/"


def check_origin(headers: Mapping[str, str]) -> None:
    """Refuse what another site made a browser send.

    ``Sec-Fetch-Site`` decides where a browser sends it, which is over HTTPS and on this machine;
    it holds behind a proxy that rewrites ``Host``. Over plain HTTP ``Origin`` must name ``Host``.

    Raises:
        CrossSite: also where neither header is there.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        same = site == "same-origin"
    else:
        host = headers.get("host", "")
        same = bool(host) and urlsplit(headers.get("origin", "")).netloc.lower() == host.lower()
    if not same:
        msg = "This did not come from a page of the console; nothing was changed."
        raise CrossSite(msg)


def check_reader(headers: Mapping[str, str]) -> None:
    """Refuse what a page of another origin reads; who follows a link from there may come in.

    Raises:
        CrossSite: a browser says so.
    """
    site = headers.get("sec-fetch-site", "none")
    if site not in {"same-origin", "none"} and headers.get("sec-fetch-mode") != "navigate":
        msg = "Pages of the console are not for other sites."
        raise CrossSite(msg)


async def read_form(chunks: AsyncIterator[bytes]) -> dict[str, str]:
    """The fields of an ``application/x-www-form-urlencoded`` body; the first of each name.

    Raises:
        TooLarge: more than 16 KiB.
        BadRequest: ``invalid_body``.
    """
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > FORM_BYTES:
            msg = f"The form has more than {FORM_BYTES} bytes."
            raise TooLarge(msg)
    try:
        fields = parse_qsl(
            body.decode(), keep_blank_values=True, max_num_fields=_FORM_FIELDS, errors="strict"
        )
    except ValueError as error:
        msg = "The form can't be read."
        raise BadRequest(msg, code="invalid_body") from error
    found: dict[str, str] = {}
    for name, value in fields:
        found.setdefault(name, value)
    return found


class Throttle:
    """Slows down guesses: each wrong token is answered late, and only so many wait at once.

    A right token is never kept waiting, so that nobody can lock others out.

    Args:
        seconds: how long a wrong one waits.
        most: how many wait at once.
    """

    def __init__(self, seconds: float = 1.0, most: int = 32) -> None:
        self._seconds = seconds
        self._most = most
        self._waiting = 0

    async def punish(self) -> bool:
        """Wait; False, at once, where too many wait already."""
        if self._waiting >= self._most:
            return False
        self._waiting += 1
        try:
            await asyncio.sleep(self._seconds)
        finally:
            self._waiting -= 1
        return True
