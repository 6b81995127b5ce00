"""Requests of each variant: encoded before the clock starts, and timed token by token."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import httpx
import torch

from cost.figures import Answer
from cost.sheets import HARD, LORA, NATIVE, OVERLAY, PEFT

if TYPE_CHECKING:
    import random

    from cost.sheets import Case

BASE: Final = "base"
ADAPTER: Final = "adapter"
PROMPT: Final = "bench"
_EVENT, _END, _ERROR = "data: ", "data: [DONE]", 'data: {"error"'


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes requests of random tokens, none like another.

    Attributes:
        hidden_size, vocabulary, dtype: of the model.
        hard: tokens of the text that stands where a soft prompt could.
        rng: where tokens come from.
    """

    hidden_size: int
    vocabulary: int
    dtype: str
    hard: int
    rng: random.Random

    def ids(self, variant: str, case: Case) -> list[int]:
        """The token ids that a caller of this variant sends."""
        before = {OVERLAY: 0, LORA: 0, PEFT: 0, HARD: self.hard}.get(variant, case.rows)
        return [
            self.rng.randrange(100, self.vocabulary - 100) for _ in range(before + case.visible)
        ]

    def embeddings(self, case: Case) -> torch.Tensor:
        """What native prompt_embeds takes: a row ``[hidden_size]`` for every token of the prompt."""
        shape = (case.rows + case.visible, self.hidden_size)
        return torch.randn(shape, dtype=getattr(torch, self.dtype)) * 0.02

    def body(self, variant: str, case: Case, output: int) -> bytes:
        """A streamed completion, encoded."""
        request: dict[str, Any] = {
            "model": {OVERLAY: f"{PROMPT}@n{case.rows}", LORA: ADAPTER}.get(variant, BASE),
            "max_tokens": output,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        if variant == NATIVE:
            file = io.BytesIO()
            torch.save(self.embeddings(case), file)
            request["prompt_embeds"] = base64.b64encode(file.getvalue()).decode()
        else:
            request["prompt"] = self.ids(variant, case)
        return json.dumps(request).encode()


async def ask(client: httpx.AsyncClient, body: bytes) -> Answer:
    """One streamed completion, read to its end.

    Raises:
        RuntimeError: it was refused, or its stream broke off; with what the server said.
    """
    moments, last = list[float](), ""
    headers = {"content-type": "application/json"}
    begun = time.perf_counter()
    async with client.stream("POST", "/v1/completions", content=body, headers=headers) as answer:
        if answer.status_code != httpx.codes.OK:
            raise RuntimeError((await answer.aread()).decode())
        async for line in answer.aiter_lines():
            if line.startswith(_ERROR):
                raise RuntimeError(line)
            if line.startswith(_EVENT):
                last = line
                moments.append(time.perf_counter())
        received = answer.num_bytes_downloaded
    if last != _END:
        raise RuntimeError(last)
    return Answer.at(begun, moments[:-1], len(body), received)


async def ask_all(
    client: httpx.AsyncClient, bodies: list[bytes], concurrency: int
) -> tuple[Answer, ...]:
    """Every request, ``concurrency`` of them at once until none is left."""
    waiting, answers = iter(bodies), list[Answer]()

    async def caller() -> None:
        for body in waiting:
            answers.append(await ask(client, body))

    await asyncio.gather(*(caller() for _ in range(concurrency)))
    return tuple(answers)
