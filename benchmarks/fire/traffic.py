"""Random requests, each answer held against the oracle's for the version that its headers name."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import httpx

from fire.oracle import Input, Step, compare
from fire.wire import Broken, Request, read_streamed, read_whole, wire
from fire.world import PROMPT

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Coroutine

    from fire.oracle import Oracle, Tokens
    from fire.world import Known, World

WORDS: Final = (
    *("parcel", "refund", "late", "order", "the", "my", "and", "invoice", "where", "is", "lost"),
    *("please", "tablet", "Norway", "VAT", "twice", "cancel", "account", "phone", "Monday", "it"),
)
LENGTHS: Final = (3, 10, 40, 90)
"""Words of a request's text."""

TEXTS: Final = 24

PINNED: Final = 0.4
PLAIN: Final = 0.05
CHAT: Final = 0.6
STREAMED: Final = 0.4
CANCELLED: Final = 0.2
CONTROLLED: Final = 0.02
LONG: Final = 0.05
SEVERAL: Final = 0.1
"""Shares of requests; `CANCELLED` is of the streamed ones, `CONTROLLED` of the answers. `LONG` ones
outgrow blocks of the KV cache as they are answered, and `SEVERAL` ask for many choices at once: where
the cache is full, that preempts others."""

GREEDY: Final = 0.001
"""As good as 0, at which vLLM refuses several choices."""

TOKENS: Final = (1, 2, 4, 8, 16)
LONG_TOKENS: Final = 160
CHOICES: Final = 3

_REFUSALS: Final = frozenset({404, 503})
_KEPT: Final = 20
"""Mismatches that are told whole."""


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
        long: float = LONG,
        several: float = SEVERAL,
    ) -> None:
        self._client = client
        self._world = world
        self._oracle = oracle
        self._tokens = tokens
        self._rng = rng
        self._base = base
        self._control_share, self._seeded_share = control, seeded
        self._long_share, self._several_share = long, several
        self._texts = [
            " ".join(rng.choices(WORDS, k=rng.choice(LENGTHS))).capitalize() + "."
            for _ in range(TEXTS)
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
        digest, choices = got
        known = self._world.known.get(digest)
        if digest and known is None:
            self._mismatch(request, digest, "an unknown digest answered")
            return
        self.tally.digests.add(digest)
        rows = None if known is None else known.rows
        what = self._input(request, digest, known)
        wanted = await self._oracle.answer(what, request.tokens, rows)
        verdicts = {compare(steps, wanted) for steps in choices}
        if "mismatch" in verdicts or len(choices) != request.n:
            self._mismatch(request, digest, f"{choices} instead of {wanted}")
        elif "tie" in verdicts:
            self.tally.tie += 1
        else:
            self.tally.equal += 1
        if known is not None and drawn(self._rng, self._control_share):
            await self._control(request, known, choices[0])

    async def _control(self, request: Request, known: Known, steps: list[Step]) -> None:
        """Hold an answer against that of another version of this kind, as if they were mixed up."""
        kind = known.rows is None
        others = [one for one in self._world.known.values() if (one.rows is None) is kind]
        other = self._rng.choice(others)
        if other.digest != known.digest:
            what = self._input(request, other.digest, other)
            wanted = await self._oracle.answer(what, request.tokens, other.rows)
            self.tally.controls += 1
            self.tally.noticed += compare(steps, wanted) == "mismatch"

    def draw(self) -> Request:
        """A request at random."""
        rng, pinned = self._rng, drawn(self._rng, PINNED)
        model = f"{PROMPT}@{rng.choice(self._world.live)}" if pinned else PROMPT
        tokens, sampling = rng.choice(TOKENS), {"temperature": 0}
        if drawn(rng, self._seeded_share):
            sampling |= {"temperature": 0.8, "top_p": 0.9, "seed": rng.randrange(4)}
        if drawn(rng, self._long_share):
            tokens, sampling = LONG_TOKENS, sampling | {"ignore_eos": True}
        several = sampling["temperature"] == 0 and drawn(rng, self._several_share)
        if several:
            sampling["temperature"] = GREEDY
        stream = drawn(rng, STREAMED)
        return Request(
            model=self._base if drawn(rng, PLAIN) else model,
            text=rng.choice(self._texts),
            chat=drawn(rng, CHAT),
            tokens=tokens,
            sampling=tuple(sampling.items()),
            stream=stream,
            cancel=stream and drawn(rng, CANCELLED),
            n=CHOICES if several else 1,
            headers=(("x-softprompt-sticky-key", f"user-{rng.randrange(200)}"),),
        )

    async def _ask(self, request: Request) -> tuple[str, list[list[Step]]] | None:
        """The answering version's digest, and each choice's steps; None if there is none to check."""
        path, body = wire(request)
        headers = dict(request.headers)
        async with self._client.stream("POST", path, json=body, headers=headers) as answer:
            if answer.status_code != httpx.codes.OK:
                await answer.aread()
                if answer.status_code in _REFUSALS:
                    self._refused(request, answer.json()["error"])
                else:
                    self.tally.failed.append(f"{request}: {answer.status_code} {answer.text}")
                return None
            digest = answer.headers.get("x-softprompt-digest", "")
            if request.stream:
                lines = answer.aiter_lines()
                try:
                    choices, heard = await read_streamed(
                        lines, chat=request.chat, cancel=request.cancel
                    )
                except Broken as broken:
                    self._refused(request, broken.error)
                    return None
                if not heard:
                    self.tally.cancelled += 1
                    return None
                return digest, choices
            await answer.aread()
            return digest, read_whole(answer.json(), chat=request.chat)

    def _input(self, request: Request, digest: str, known: Known | None) -> Input:
        system = None if known is None else known.text
        ids = (self._tokens.chat if request.chat else self._tokens.plain)(request.text, system)
        sampling = dict(request.sampling)
        if request.n > 1:
            sampling["temperature"] = 0  # as good as that, and asked for already
        return Input(digest, tuple(ids), tuple(sampling.items()))

    def _refused(self, request: Request, error: dict[str, Any]) -> None:
        """Count an error by its code; one that has none of ours is a failure."""
        code = error.get("code")
        if not isinstance(code, str):
            self.tally.failed.append(f"{request}: {error}")
            return
        self.tally.refused[code] = self.tally.refused.get(code, 0) + 1

    def _mismatch(self, request: Request, digest: str, how: str) -> None:
        self.tally.mismatch += 1
        if len(self.tally.mismatches) < _KEPT:
            self.tally.mismatches.append(f"{request} by {digest[:12]}: {how}")


def drawn(rng: random.Random, chance: float) -> bool:
    """True with this chance."""
    return rng.random() < chance


async def together(work: list[Coroutine[Any, Any, None]]) -> None:
    """Run all; the first that fails ends the others."""
    async with asyncio.TaskGroup() as group:
        for one in work:
            group.create_task(one)
