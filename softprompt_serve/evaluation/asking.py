"""One request of an evaluation: streamed, timed, proven to come from the version that was meant."""

from __future__ import annotations

import asyncio
import email.utils
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

import httpx

from softprompt_serve.errors import SoftpromptError
from softprompt_serve.evaluation.replies import Reply, content_sha256
from softprompt_serve.evaluation.streams import Stream, events_of, stable_code
from softprompt_serve.release.evidence import Answer
from softprompt_serve.router.ask import DEFAULT, DERIVED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from softprompt_serve.evaluation.dataset import Item
    from softprompt_serve.evaluation.replies import Target

Json = dict[str, Any]

_BUSY: Final = frozenset({429, 503})
_OF_THE_RUN: Final = frozenset({401, 403, 404})
"""Statuses that no other item would fare better with."""
_LONGEST_WAIT_SECONDS: Final = 60.0
_SHOWN: Final = 300


class Aborted(SoftpromptError):
    """The run can't go on; what is answered is kept, and a later call resumes it.

    Codes: ``wrong_version`` (an answer that is not the pinned version's), ``endpoint_lost``
    (nothing answers), ``endpoint_refused`` (wrong key, or the model is not there).
    """

    default_code = "endpoint_lost"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer, as :meth:`softprompt_serve.rollout.cost.Prices.cost` reads them."""

    visible_tokens: int
    virtual_tokens: int
    cached_tokens: int
    output_tokens: int


class Endpoint:
    """An OpenAI-compatible server; use it in ``async with``.

    Args:
        url: the server, without ``/v1``.
        key: bearer token of ``/v1``, or None.
        route: what requests declare in ``x-softprompt-route``.
        timeout_seconds: for one answer as a whole; one that takes longer counts as ``timeout``.
        attempts: how often a request is sent at most, if the server is busy or can't be reached.
        cost: USD of an answer's tokens, or None where there is no tariff.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        route: str = "evaluation",
        timeout_seconds: float = 120.0,
        attempts: int = 6,
        cost: Callable[[Usage], float | None] = lambda _usage: None,
    ) -> None:
        self.url = url.rstrip("/")
        self._route = route
        self._timeout = timeout_seconds
        self._attempts = attempts
        self._cost = cost
        self._client = httpx.AsyncClient(
            base_url=f"{self.url}/v1",
            headers={} if key is None else {"authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(None, connect=10.0),
            limits=httpx.Limits(max_connections=None),
            # A proxy that is set for the world has no way to this machine's loopback.
            trust_env=httpx.URL(self.url).host not in {"127.0.0.1", "::1", "localhost"},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def ask(self, item: Item, target: Target, sampling: Mapping[str, Any]) -> Reply:
        """The target's answer; a failure that is this item's own is one with an ``error``.

        Raises:
            Aborted: see there.
        """
        for attempt in range(1, self._attempts + 1):
            last = attempt == self._attempts
            try:
                async with asyncio.timeout(self._timeout):
                    found = await self._once(item, target, sampling)
            except TimeoutError:
                return _failed(item, target, "timeout")
            except httpx.TransportError as error:
                if last:
                    msg = f"{self.url} can't be reached: {error or type(error).__name__}."
                    raise Aborted(msg) from error
                found = _backoff(attempt)
            if isinstance(found, Reply):
                return found
            if isinstance(found, str):
                return _failed(item, target, found)
            if last:
                return _failed(item, target, "busy")
            await asyncio.sleep(found if found > 0 else _backoff(attempt))
        raise AssertionError  # attempts is at least 1

    async def _once(
        self, item: Item, target: Target, sampling: Mapping[str, Any]
    ) -> Reply | str | float:
        """A reply, the code of a failure, or the seconds after which to try again."""
        path, body = request_of(item, target, sampling)
        stream = Stream(time.perf_counter())
        headers = self._headers(item)
        async with self._client.stream("POST", path, json=body, headers=headers) as response:
            if response.is_error:
                return await self._refused(response, target)
            prove(response.headers, target)
            async for chunk in events_of(response):
                stream.take(chunk)
        ended = time.perf_counter()
        if stream.failed is not None or not stream.finished:
            return stream.failed or "incomplete_answer"
        return self._reply(item, target, stream, response.headers, ended)

    def _headers(self, item: Item) -> dict[str, str]:
        headers = {"x-softprompt-route": self._route}
        if item.cohort not in {DEFAULT, *DERIVED}:  # these the server derives by itself
            headers["x-softprompt-cohort"] = item.cohort
        return headers

    async def _refused(self, response: httpx.Response, target: Target) -> str | float:
        text = (await response.aread()).decode(errors="replace")
        code = response.headers.get("x-softprompt-error") or _code_in(text)
        if response.status_code in _OF_THE_RUN:
            shown = " ".join(text.split())[:_SHOWN]
            msg = f"{self.url} refuses {target.model} with status {response.status_code}: {shown}"
            raise Aborted(msg, code="endpoint_refused")
        if response.status_code in _BUSY:
            return retry_after(response.headers.get("retry-after"))
        return stable_code(code or f"http_{response.status_code}")

    def _reply(
        self, item: Item, target: Target, stream: Stream, headers: httpx.Headers, ended: float
    ) -> Reply:
        text, calls = "".join(stream.text), stream.tool_calls()
        virtual = int(headers.get("x-softprompt-virtual-tokens", "0"))
        processed, output = stream.usage.get("prompt_tokens"), stream.usage.get("completion_tokens")
        visible = None if processed is None else max(0, processed - virtual)
        cost = None
        if visible is not None and output is not None:
            details = stream.usage.get("prompt_tokens_details") or {}
            cached = details.get("cached_tokens") or 0
            cost = self._cost(Usage(visible, virtual, cached, output))
        answer = Answer(
            item.id,
            target.version,
            item.cohort,
            ttft_seconds=None if stream.first is None else stream.first - stream.began,
            e2e_seconds=ended - stream.began,
            visible_tokens=visible,
            virtual_tokens=virtual,
            output_tokens=output,
            cost_usd=cost,
            sha256=content_sha256(text, calls),
        )
        return Reply(answer, text, calls)


def request_of(item: Item, target: Target, sampling: Mapping[str, Any]) -> tuple[str, Json]:
    """The path below ``/v1`` and the body: the same for every version but for the model's name."""
    body: Json = {
        **sampling,
        "model": target.model,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if item.prompt is not None:
        return "/completions", {**body, "prompt": item.prompt}
    for name in ("messages", "tools", "tool_choice"):
        if (part := getattr(item, name)) is not None:
            body[name] = part
    return "/chat/completions", body


def prove(headers: httpx.Headers, target: Target) -> None:
    """Make sure that an answer is the target's.

    Raises:
        Aborted: ``wrong_version``.
    """
    name = headers.get("x-softprompt-name")
    if not target.prompt:
        if name is not None:
            _wrong(target, f"the headers name the prompt {name!r}")
        return
    label = f"{name}@{headers.get('x-softprompt-version')}"
    digest = headers.get("x-softprompt-digest")
    if label != target.model:
        _wrong(target, f"the headers name {label if name else 'no version'}")
    if digest != target.digest:
        _wrong(target, f"its digest is {digest}, expected {target.digest}")


def _wrong(target: Target, found: str) -> NoReturn:
    msg = f"An answer that was asked of {target.model} is not its own: {found}."
    raise Aborted(msg, code="wrong_version")


def retry_after(value: str | None) -> float:
    """Seconds to wait by a ``Retry-After`` header (RFC 9110, 10.2.3), at most a minute; or 0."""
    if value is None:
        return 0.0
    if value.strip().isdigit():
        return min(float(value), _LONGEST_WAIT_SECONDS)
    try:
        until = email.utils.parsedate_to_datetime(value).timestamp()
    except (TypeError, ValueError):
        return 0.0
    return min(max(0.0, until - time.time()), _LONGEST_WAIT_SECONDS)


def _failed(item: Item, target: Target, code: str) -> Reply:
    return Reply(Answer(item.id, target.version, item.cohort, error=code))


def _backoff(attempt: int) -> float:
    return min(0.25 * 2.0**attempt, 10.0)


def _code_in(text: str) -> str | None:
    try:
        code = json.loads(text)["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return None
    return code if isinstance(code, str) else None
