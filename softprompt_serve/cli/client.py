"""The admin API as a client sees it: one call in, one answer or one error out."""

from __future__ import annotations

import getpass
import json
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlsplit

import httpx

from softprompt_serve.errors import SoftpromptError
from softprompt_serve.registry.names import check_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import IO

PREFIX = "/softprompts/v1"
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_CONNECT_SECONDS = 5.0
_MARGIN_SECONDS = 60.0
"""What a change may take besides draining: the server gives its workers as long as this."""


class Unreachable(SoftpromptError):
    """No answer came from the address; the CLI exits with status 2."""

    default_code = "server_unreachable"


class ApiError(SoftpromptError):
    """The server answered with an error.

    Attributes:
        http_status: its HTTP status.
        answer: its body, as it came if that was JSON, else this error in OpenAI's shape.
    """

    def __init__(self, response: httpx.Response) -> None:
        self.http_status = response.status_code
        message, code = _explained(response)
        super().__init__(message, code=code)
        self.answer = response.text if _is_object(response) else json.dumps(self.body())


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server answered: its status, the body's text and the same as data."""

    status: int
    text: str
    data: Any


class Api:
    """A connection to one server's admin API; use it in ``with``."""

    def __init__(self, url: str, token: str | None, *, drain_seconds: float = 60.0) -> None:
        """Talk to the server at ``url``, bearing ``token``.

        Raises:
            Unreachable: ``url`` is not one.
        """
        self.url = url.rstrip("/")
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        try:
            address = urlsplit(self.url)
            self._client = httpx.Client(
                base_url=self.url + PREFIX,
                headers=headers,
                timeout=httpx.Timeout(drain_seconds + _MARGIN_SECONDS, connect=_CONNECT_SECONDS),
                # A proxy that is set for the world has no way to this machine's loopback.
                trust_env=address.hostname not in _LOOPBACK,
                # Reading all certificates takes longer than a call; plain HTTP needs none.
                verify=address.scheme == "https" or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            )
        except (httpx.InvalidURL, ValueError) as error:
            msg = f"{url!r} is not an address of a server: {error}"
            raise Unreachable(msg, code="invalid_url") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def get(self, path: str, **query: str | int | None) -> Answer:
        """Read; a query value of None is left out.

        Raises:
            ApiError, Unreachable: as all calls here.
        """
        return self.call("GET", path, query={k: v for k, v in query.items() if v is not None})

    def change(
        self,
        method: str,
        path: str,
        *,
        json_body: Mapping[str, Any] | None = None,
        json_text: bytes | None = None,
        form: Mapping[str, str] | None = None,
        tensor: tuple[str, IO[bytes]] | None = None,
        if_match: int | str | None = None,
    ) -> Answer:
        """Change something, as the local user.

        Args:
            method: of HTTP.
            path: below the admin API's prefix.
            json_body: a JSON body.
            json_text: the same, as it shall be sent.
            form: fields of a multipart body.
            tensor: a file of such a body: its name and content.
            if_match: the generation, or tag, on which alone the change may be made.

        Raises:
            ApiError, Unreachable: as all calls here.
        """
        actor = local_user()
        headers = {} if if_match is None else {"if-match": f'"{if_match}"'}
        if json_text is not None:
            headers["content-type"] = "application/json"
        return self.call(
            method,
            path,
            query={} if actor is None else {"actor": actor},
            json=json_body,
            data=form,
            files=None if tensor is None else {"tensor": tensor},
            content=json_text,
            headers=headers or None,
        )

    def download(self, path: str, media_type: str, **query: str | int) -> bytes:
        """Read a file of that kind.

        Raises:
            ApiError, Unreachable: as all calls here.
        """
        response = self._send("GET", path, query)
        if response.is_success and response.headers.get("content-type") == media_type:
            return response.content
        raise ApiError(response)

    def call(
        self, method: str, path: str, *, query: Mapping[str, str | int], **parts: Any
    ) -> Answer:
        """One call.

        Raises:
            ApiError: the server's own error.
            Unreachable: nothing answered, or not in time, or not HTTP.
        """
        response = self._send(method, path, query, **parts)
        if response.is_success and _is_json(response):
            return Answer(response.status_code, response.text, response.json())
        raise ApiError(response)

    def _send(
        self, method: str, path: str, query: Mapping[str, str | int], **parts: Any
    ) -> httpx.Response:
        parts = {name: part for name, part in parts.items() if part is not None}
        try:
            return self._client.request(method, path, params=dict(query), **parts)
        except httpx.ConnectError as error:
            raise Unreachable(_refused(self.url, error)) from error
        except httpx.TimeoutException as error:
            msg = (
                f"{self.url} did not answer in time; a change may still be under way: "
                "see `softprompt-serve audit`."
            )
            raise Unreachable(msg, code="server_timeout") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            msg = f"{self.url} can't be talked to: {error or type(error).__name__}"
            raise Unreachable(msg) from error


def prompt_path(prompt: str) -> str:
    """The path of a prompt.

    Raises:
        BadRequest: ``invalid_name``; so it never reaches another path than it names.
    """
    return f"/prompts/{quote(check_name('prompt', prompt), safe='')}"


def version_path(prompt: str, version: str) -> str:
    """The path of a prompt's version (or of what an alias stands for)."""
    return f"{prompt_path(prompt)}/versions/{check_name('version', version)}"


def alias_path(prompt: str, alias: str) -> str:
    """The path of a prompt's alias."""
    return f"{prompt_path(prompt)}/aliases/{check_name('alias', alias)}"


def rollout_path(prompt: str, verb: str | None = None) -> str:
    """The path of a prompt's rollout, or of something that can be done with it."""
    path = f"{prompt_path(prompt)}/rollout"
    return path if verb is None else f"{path}/{verb}"


def local_user() -> str | None:
    """Who runs this command, as audits and evidence name them; None where that has no name."""
    try:
        return getpass.getuser()[:128]
    except (OSError, KeyError, ImportError):  # no such user in this container
        return None


def _refused(url: str, error: httpx.ConnectError) -> str:
    return (
        f"No server answers at {url} ({error}). Start one with `softprompt-serve serve MODEL`, "
        "or say where it is with --url or SOFTPROMPT_URL."
    )


def _is_json(response: httpx.Response) -> bool:
    try:
        response.json()
    except ValueError:
        return False
    return True


def _is_object(response: httpx.Response) -> bool:
    return _is_json(response) and isinstance(response.json(), dict)


def _explained(response: httpx.Response) -> tuple[str, str]:
    """Message and code of an error, whoever in the server (or before it) answered."""
    data = response.json() if _is_object(response) else {}
    error = data.get("error")
    if isinstance(error, dict) and error.get("message"):
        return str(error["message"]), str(error.get("code") or "server_error")
    url = str(response.request.url)
    if response.status_code == httpx.codes.NOT_FOUND or response.is_success:
        msg = (
            f"{url} is not softprompt-serve's admin API (status {response.status_code}). A plain "
            "`vllm serve` needs VLLM_PLUGINS=softprompt_serve; see `softprompt-serve doctor`."
        )
        return msg, "not_softprompt_serve"
    shown = " ".join(response.text.split())[:200]
    return f"{url} answered with status {response.status_code}: {shown}", "server_error"
