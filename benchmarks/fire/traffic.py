"""Random requests, each answer held against the oracle's for the version that its headers name."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import httpx

from fire.oracle import TOP, Input, Step, compare, of_chat, of_completion
from fire.world import PROMPT

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Callable, Coroutine

    from fire.oracle import Oracle, Tokens
    from fire.world import Known, World

WORDS: Final = (
    *("parcel", "refund", "late", "order", "the", "my", "and", "invoice", "where", "is", "lost"),
    *("please", "tablet", "Norway", "VAT", "twice", "cancel", "account", "phone", "Monday", "it"),
)
LENGTHS: Final = (3, 10, 40, 90)
"""Words of a request's text."""

PINNED: Final = 0.4
PLAIN: Final = 0.05
CHAT: Final = 0.6
STREAMED: Final = 0.4
CANCELLED: Final = 0.2
CONTROLLED: Final = 0.02
"""Shares of requests; `CANCELLED` is of the streamed ones, `CONTROLLED` of the answers."""

LOST: Final = "is not resident on the workers"
"""In messages of ``softprompt_lost``."""

_REFUSALS: Final = frozenset({404, 503})
_KEPT: Final = 20
"""Mismatches that are told whole."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request, before it is known who answers it.

    Attributes:
        model: ``fire``, ``fire@VERSION``, or the base model.
        text: what the user says.
        chat: whether it is a chat completion, not a completion.
        sampling: as it is sent.
        stream: whether the answer is streamed.
        cancel: whether the caller goes away after the first words.
        headers: such as the sticky key.
    """

    model: str
    text: str
    chat: bool
    sampling: tuple[tuple[str, Any], ...]
    stream: bool
    cancel: bool
    headers: tuple[tuple[str, str], ...] = ()


@dataclass
class Tally:
    """What came of all requests.

    Attributes:
        equal: answers that are the oracle's, token for token.
        tie: those that are so until two tokens were equally likely.
        mismatch: those that are another's.
        controls: answers that were held against another version's, too.
        noticed: of those, the ones that did not agree: how sharp the comparison is.
    """

    equal: int = 0
    tie: int = 0
    mismatch: int = 0
    cancelled: int = 0
    controls: int = 0
    noticed: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    mismatches: list[str] = field(default_factory=list)
    digests: set[str] = field(default_factory=set)

    @property
    def answers(self) -> int:
        """Answers that were compared."""
        return self.equal + self.tie + self.mismatch


class Traffic:
    """Asks at random until it is told to stop."""

    def __init__(
        self,
        *,
        client: httpx.AsyncClient,
        world: World,
        oracle: Oracle,
        tokens: Tokens,
        rng: random.Random,
        base: str,
        control: float = CONTROLLED,
        seeded: float = 0.0,
    ) -> None:
        self._client = client
        self._world = world
        self._oracle = oracle
        self._tokens = tokens
        self._rng = rng
        self._base = base
        self._control_share, self._seeded_share = control, seeded
        self._texts = [
            " ".join(rng.choices(WORDS, k=rng.choice(LENGTHS))).capitalize() + "."
            for _ in range(60)
        ]
        self.tally = Tally()

    async def run(self, more: Callable[[], bool]) -> None:
        """Ask one request after the other while ``more``."""
        while more():
            await self.once()

    async def once(self) -> None:
        """Ask one request and check its answer."""
        request = self.draw()
        try:
            got = await self._ask(request)
        except httpx.HTTPError as error:
            self.tally.failed.append(f"{request}: {type(error).__name__} {error}")
            return
        if got is None:
            return
        digest, steps = got
        known = self._world.known.get(digest)
        if digest and known is None:
            self._mismatch(request, digest, "an unknown digest answered")
            return
        self.tally.digests.add(digest)
        rows = None if known is None else known.rows
        wanted = await self._oracle.answer(self._input(request, digest, known), rows)
        verdict = compare(steps, wanted)
        if verdict == "mismatch":
            self._mismatch(request, digest, f"{steps} instead of {wanted}")
        else:
            setattr(self.tally, verdict, getattr(self.tally, verdict) + 1)
        if known is not None and drawn(self._rng, self._control_share):
            await self._control(request, known, steps)

    async def _control(self, request: Request, known: Known, steps: list[Step]) -> None:
        """Hold an answer against that of another version of this kind, as if they were mixed up."""
        kind = known.rows is None
        others = [one for one in self._world.known.values() if (one.rows is None) is kind]
        other = self._rng.choice(others)
        if other.digest != known.digest:
            what = self._input(request, other.digest, other)
            wanted = await self._oracle.answer(what, other.rows)
            self.tally.controls += 1
            self.tally.noticed += compare(steps, wanted) == "mismatch"

    def draw(self) -> Request:
        """A request at random."""
        rng, pinned = self._rng, drawn(self._rng, PINNED)
        model = f"{PROMPT}@{rng.choice(self._world.live)}" if pinned else PROMPT
        sampling: dict[str, Any] = {"max_tokens": rng.choice((1, 2, 8, 16, 24)), "temperature": 0}
        if drawn(rng, self._seeded_share):
            sampling |= {"temperature": 0.8, "top_p": 0.9, "seed": rng.randrange(4)}
        stream = drawn(rng, STREAMED)
        return Request(
            model=self._base if drawn(rng, PLAIN) else model,
            text=rng.choice(self._texts),
            chat=drawn(rng, CHAT),
            sampling=tuple(sampling.items()),
            stream=stream,
            cancel=stream and drawn(rng, CANCELLED),
            headers=(("x-softprompt-sticky-key", f"user-{rng.randrange(200)}"),),
        )

    async def _ask(self, request: Request) -> tuple[str, list[Step]] | None:
        """The answering version's digest and the answer's steps; None if there is none to check."""
        path, body = _wire(request)
        headers = dict(request.headers)
        async with self._client.stream("POST", path, json=body, headers=headers) as answer:
            if answer.status_code != httpx.codes.OK:
                self._refused(request, answer.status_code, await answer.aread())
                return None
            digest = answer.headers.get("x-softprompt-digest", "")
            if request.stream:
                lines = answer.aiter_lines()
                try:
                    steps, heard = await _streamed(lines, chat=request.chat, cancel=request.cancel)
                except Broken as broken:
                    self._refused(request, broken.status, broken.body.encode())
                    return None
                if not heard:
                    self.tally.cancelled += 1
                    return None
                return digest, steps
            choice = json.loads(await answer.aread())["choices"][0]
        return digest, (of_chat if request.chat else of_completion)(choice["logprobs"])

    def _input(self, request: Request, digest: str, known: Known | None) -> Input:
        system = None if known is None else known.text
        ids = (self._tokens.chat if request.chat else self._tokens.plain)(request.text, system)
        return Input(digest, tuple(ids), request.sampling)

    def _refused(self, request: Request, status: int, body: bytes) -> None:
        text = body.decode(errors="replace")
        if status not in _REFUSALS:
            self.tally.failed.append(f"{request}: {status} {text}")
            return
        code = json.loads(text)["error"]["code"]
        self.tally.refused[code] = self.tally.refused.get(code, 0) + 1

    def _mismatch(self, request: Request, digest: str, how: str) -> None:
        self.tally.mismatch += 1
        if len(self.tally.mismatches) < _KEPT:
            self.tally.mismatches.append(f"{request} by {digest[:12]}: {how}")


def drawn(rng: random.Random, chance: float) -> bool:
    """True with this chance."""
    return rng.random() < chance


def _wire(request: Request) -> tuple[str, dict[str, Any]]:
    body: dict[str, Any] = {
        "model": request.model,
        "stream": request.stream,
        "return_tokens_as_token_ids": True,
        **dict(request.sampling),
    }
    if request.chat:
        messages = [{"role": "user", "content": request.text}]
        more = {"messages": messages, "logprobs": True, "top_logprobs": TOP}
        return "/v1/chat/completions", body | more
    return "/v1/completions", body | {"prompt": request.text, "logprobs": TOP}


class Broken(Exception):
    """A stream that ended in an error: its HTTP status and its body."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(body)
        self.status = status
        self.body = body


async def _streamed(
    lines: AsyncIterator[str], *, chat: bool, cancel: bool
) -> tuple[list[Step], bool]:
    """All steps of a streamed answer; whether it was heard to its end.

    Raises:
        Broken: it ended in an error.
    """
    steps: list[Step] = []
    async for line in lines:
        data = line.removeprefix("data: ")
        if not data or data == "[DONE]":
            continue
        told = json.loads(data)
        if (error := told.get("error")) is not None:
            raise Broken(_status_of(error), data)
        for choice in told["choices"]:
            if choice.get("logprobs"):
                steps += (of_chat if chat else of_completion)(choice["logprobs"])
        if cancel and steps:
            return steps, False
    return steps, True


def _status_of(error: dict[str, Any]) -> int:
    """The status that an error in a stream would have had; vLLM calls each of them a 500."""
    return 503 if LOST in str(error.get("message")) else int(error["code"])


async def together(work: list[Coroutine[Any, Any, None]]) -> None:
    """Run all; the first that fails ends the others."""
    async with asyncio.TaskGroup() as group:
        for one in work:
            group.create_task(one)
