"""Random requests as they are sent, and what is read of their answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from fire.oracle import TOP, Step, of_chat, of_completion

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass(frozen=True, slots=True)
class Request:
    """One request, before it is known who answers it.

    Attributes:
        model: ``fire``, ``fire@VERSION``, or the base model.
        text: what the user says.
        chat: whether it is a chat completion, not a completion.
        tokens: how many at most.
        sampling: as it is sent.
        stream: whether the answer is streamed.
        cancel: whether the caller goes away after the first words.
        n: how many choices.
        headers: such as the sticky key.
    """

    model: str
    text: str
    chat: bool
    tokens: int
    sampling: tuple[tuple[str, Any], ...]
    stream: bool
    cancel: bool
    n: int = 1
    headers: tuple[tuple[str, str], ...] = ()


def wire(request: Request) -> tuple[str, dict[str, Any]]:
    """Its path and body."""
    body: dict[str, Any] = {
        "model": request.model,
        "stream": request.stream,
        "n": request.n,
        "max_tokens": request.tokens,
        "return_tokens_as_token_ids": True,
        **dict(request.sampling),
    }
    if request.chat:
        messages = [{"role": "user", "content": request.text}]
        more = {"messages": messages, "logprobs": True, "top_logprobs": TOP}
        return "/v1/chat/completions", body | more
    return "/v1/completions", body | {"prompt": request.text, "logprobs": TOP}


class Broken(Exception):
    """A stream that ended in an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error)
        self.error = error


async def read_streamed(
    lines: AsyncIterator[str], *, chat: bool, cancel: bool
) -> tuple[list[list[Step]], bool]:
    """All steps of a streamed answer, by choice; whether it was heard to its end.

    Raises:
        Broken: it ended in an error.
        httpx.RemoteProtocolError: it ended without a word.
    """
    steps: dict[int, list[Step]] = {}
    read, ended = of_chat if chat else of_completion, False
    async for line in lines:
        data = line.removeprefix("data: ")
        ended = ended or data == "[DONE]"
        if not data or ended:
            continue
        told = json.loads(data)
        if (error := told.get("error")) is not None:
            raise Broken(error)
        for choice in told["choices"]:
            if choice.get("logprobs"):
                steps.setdefault(choice["index"], []).extend(read(choice["logprobs"]))
        if cancel and steps:
            return list(steps.values()), False
    if not ended:
        msg = "the stream had no end"
        raise httpx.RemoteProtocolError(msg)
    return list(steps.values()), True


def read_whole(answer: dict[str, Any], *, chat: bool) -> list[list[Step]]:
    """All steps of an answer in one piece, by choice."""
    read = of_chat if chat else of_completion
    return [read(choice["logprobs"]) for choice in answer["choices"]]
