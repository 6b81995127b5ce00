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
TOKENS = ".logprobs.top_logprobs[]"
"""Where a completion has tokens for names."""


@dataclass(frozen=True)
class Form:
    """One answer's.

    How many tokens go into an event is the clock's affair: so what a run of events of one name holds
    is taken together.

    Attributes:
        status: of HTTP.
        headers: their names, without ours.
        events: the name of each run (empty if events have none), and all paths and types in it; an
            answer in one piece is one event.
        first: the shape of the first event.
        last: that of the last.
    """

    status: int
    headers: frozenset[str]
    events: tuple[tuple[str, Shape], ...]
    first: Shape
    last: Shape

    @property
    def paths(self) -> set[str]:
        """Every path that is anywhere in it."""
        return {path for _, shape in self.events for path, _ in shape}

    @property
    def names(self) -> tuple[int, set[str]]:
        """Without types: an error's `code` is a number of vLLM's, or one of our words."""
        return self.status, self.paths

    def differences(self, other: Form) -> list[str]:
        """Each of them, in words; none if the two are equal."""
        found = [
            f"{what}: {ours} instead of {theirs}"
            for what, ours, theirs in (
                ("status", self.status, other.status),
                ("headers", self.headers ^ other.headers, set()),
                ("events", self._named(), other._named()),
                ("first event", self.first ^ other.first, set()),
                ("last event", self.last ^ other.last, set()),
            )
            if ours != theirs
        ]
        for (name, ours), (_, theirs) in zip(self.events, other.events, strict=False):
            found += [f"only here, {name}: {one}" for one in sorted(ours - theirs)]
            found += [f"only there, {name}: {one}" for one in sorted(theirs - ours)]
        return found

    def without(self, field: str) -> Form:
        """As if no object had a field of that name."""

        def less(shape: Shape) -> Shape:
            return frozenset(one for one in shape if not one[0].endswith(f".{field}"))

        events = tuple((name, less(shape)) for name, shape in self.events)
        return Form(self.status, self.headers, events, less(self.first), less(self.last))

    def _named(self) -> list[str]:
        return [name for name, _ in self.events]


def shape_of(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The paths and types of a JSON value."""
    if isinstance(value, dict):
        yield path, "object"
        for name, inner in value.items():
            known = "*" if path.endswith(TOKENS) else name
            yield from shape_of(inner, f"{path}.{known}")
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
    runs = groupby(events, key=lambda event: event[0])
    return Form(
        response.status_code,
        frozenset(n for n in response.headers if not n.startswith("x-softprompt")),
        tuple((name, frozenset().union(*(shape for _, shape in run))) for name, run in runs),
        events[0][1],
        events[-1][1],
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
