"""Where this machine's pip looks for packages, for a file that pip can't fetch by itself.

``pip download`` runs a source distribution's ``setup.py``. So that nothing of it runs, the file is
fetched here, from the index, and with the certificates and the proxy, that pip is set up with.
"""

from __future__ import annotations

import ast
import os
import re
import ssl
import subprocess
import sys
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urljoin, urlsplit

import httpx

from softprompt_serve.errors import NotFound, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

_ACCEPT: Final = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
_SECTIONS: Final = (":env:", "download", "global")
"""Of pip's settings, the strongest first."""

_DEFAULT: Final = re.compile(r"--index-url <url> .*?\(default (https?://[^\s)]+)\)")
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_CONNECT_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Pip:
    """What pip is set up with.

    Attributes:
        indexes: addresses of package indexes, in the order in which they are asked.
        cert: a file of certificates to trust, or None for the system's.
        proxy: its address, or None for the environment's.
    """

    indexes: tuple[str, ...]
    cert: str | None = None
    proxy: str | None = None

    @classmethod
    def here(cls) -> Pip:
        """The settings of the pip beside this interpreter.

        Raises:
            Unavailable: ``bbh_no_pip``.
        """
        return cls.of(_said("config", "list"), _said("download", "--help"))

    @classmethod
    def of(cls, listed: str, helped: str) -> Pip:
        """From what ``pip config list`` and ``pip download --help`` print."""
        settings = dict(_setting(line) for line in listed.splitlines() if "=" in line)

        def value(name: str) -> str | None:
            given = (settings.get(f"{section}.{name}") for section in _SECTIONS)
            return next((text for text in given if text is not None), None)

        if (value("no-index") or "").lower() in _TRUE:
            return cls(())
        default = _DEFAULT.search(" ".join(helped.split()))
        main = value("index-url") or (default[1] if default else "")
        named = [*main.split(), *(value("extra-index-url") or "").split()]
        indexes = (name for name in named if urlsplit(name).scheme in {"http", "https"})
        return cls(tuple(indexes), value("cert"), value("proxy"))

    def client(self) -> httpx.Client:
        """A client as pip would be one; use it in ``with``.

        Raises:
            Unavailable: ``bbh_no_pip``: the certificates can't be read.
        """
        try:
            trusted = ssl.create_default_context(cafile=self.cert)
        except OSError as error:
            msg = f"{self.cert}, pip's certificates, can't be read: {error.strerror or error}."
            raise Unavailable(msg, code="bbh_no_pip") from error
        return httpx.Client(
            verify=trusted,
            proxy=self.proxy,
            follow_redirects=True,
            timeout=httpx.Timeout(60.0, connect=_CONNECT_SECONDS),
        )

    def address(self, client: httpx.Client, package: str, file: str) -> str:
        """Where the indexes have a file of a package (PEP 503 and 691).

        Raises:
            NotFound: ``bbh_not_found``.
            httpx.HTTPError: an index can't be asked.
        """
        for index in self.indexes:
            page = client.get(f"{index.rstrip('/')}/{package}/", headers={"accept": _ACCEPT})
            if page.status_code == httpx.codes.NOT_FOUND:
                continue
            page.raise_for_status()
            if (found := links(page).get(file)) is not None:
                return found
        asked = "the index that pip uses" if self.indexes else "an index: pip is set up with none"
        msg = f"{file} is not in {asked}. Fetch it elsewhere, and give it with --archive."
        raise NotFound(msg, code="bbh_not_found")


def links(page: httpx.Response) -> dict[str, str]:
    """Addresses of a project's files by their names, from either form of a simple index."""
    base = str(page.url)
    if "json" in page.headers.get("content-type", ""):
        try:
            files: list[Mapping[str, str]] = page.json()["files"]
            return {file["filename"]: urljoin(base, file["url"]) for file in files}
        except (ValueError, KeyError, TypeError):
            return {}  # it is no index
    anchors = _Anchors()
    anchors.feed(page.text)
    found = (urlsplit(urljoin(base, link))._replace(fragment="") for link in anchors.targets)
    return {unquote(link.path).rpartition("/")[2]: link.geturl() for link in found}


class _Anchors(HTMLParser):
    """Collects where a page's links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.targets += [value for name, value in attrs if name == "href" and value]


def _setting(line: str) -> tuple[str, str]:
    name, _, value = line.partition("=")
    try:
        return name.strip(), str(ast.literal_eval(value.strip()))
    except (ValueError, SyntaxError):
        return name.strip(), value.strip()


def _said(*arguments: str) -> str:
    done = subprocess.run(  # noqa: S603 - this interpreter's own pip, no shell
        [sys.executable, "-m", "pip", *arguments],
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        problem = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        msg = f"pip can't be asked where it looks for packages ({problem}); give --archive."
        raise Unavailable(msg, code="bbh_no_pip")
    return done.stdout
