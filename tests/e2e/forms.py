"""What an answer looks like, whatever it says: its status, the names and types in it, its events.

Two answers of one form are the same to a program that reads them by name and type.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import httpx
import openai

Shape = frozenset[tuple[str, str]]
"""JSON paths, an array's elements all under `[]`, each with the type that stands there."""

DONE = "[DONE]"


@dataclass(frozen=True)
class Form:
    """One answer's.

    Attributes:
        status: of HTTP.
        headers: their names, without ours.
        events: the event's name (empty if it has none) and its shape, as they come, of a run of
            equal ones the first; an answer in one piece is one event.
    """

    status: int
    headers: frozenset[str]
    events: tuple[tuple[str, Shape], ...]

    @property
    def paths(self) -> set[str]:
        """Every path that is anywhere in it."""
        return {path for _, shape in self.events for path, _ in shape}

    @property
    def names(self) -> Form:
        """Without types: an error's `code` is a number of vLLM's, or one of our words."""
        untyped = tuple(
            (event, frozenset((p, "") for p, _ in shape)) for event, shape in self.events
        )
        return Form(self.status, self.headers, untyped)


def shape_of(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The paths and types of a JSON value."""
    if isinstance(value, dict):
        yield path, "object"
        for name, inner in value.items():
            yield from shape_of(inner, f"{path}.{name}")
    elif isinstance(value, list):
        yield path, "array"
        for inner in value:
            yield from shape_of(inner, f"{path}[]")
    else:
        yield path, type(value).__name__


def form_of(response: httpx.Response) -> Form:
    """The form of an answer that was read to its end."""
    streamed = response.headers["content-type"].startswith("text/event-stream")
    events = _events(response.text) if streamed else [("", _shape(response.text))]
    return Form(
        response.status_code,
        frozenset(n for n in response.headers if not n.startswith("x-softprompt")),
        tuple(event for event, _ in groupby(events)),
    )


def ask(client: openai.OpenAI, path: str, body: dict[str, Any]) -> httpx.Response:
    """What the openai client gets, an error too."""
    try:
        return client.post(path, body=body, cast_to=httpx.Response)
    except openai.APIStatusError as error:
        return error.response


def _events(text: str) -> list[tuple[str, Shape]]:
    events, name = [], ""
    for line in text.splitlines():
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            events.append((name, _shape(value)))
            name = ""
    return events


def _shape(text: str) -> Shape:
    return frozenset([("", DONE)] if text == DONE else shape_of(json.loads(text)))
