"""What calls that change a prompt's documents have in common: what they are tied to, and who asks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from softprompt_serve.errors import BadRequest

if TYPE_CHECKING:
    from fastapi import Response

    from softprompt_serve.server.service import Service

Tie = TypeVar("Tie")


@dataclass(frozen=True, slots=True)
class Change(Generic[Tie]):
    """A call that changes something of a prompt's.

    Attributes:
        service: what serves.
        prompt: the prompt's name.
        response: gets the ETag.
        if_match: names the state to change, or None for any.
        actor: who asks.
    """

    service: Service
    prompt: str
    response: Response
    if_match: Tie | None
    actor: str | None


def tag_asked(if_match: str | None, tag: str, expected: str) -> str | None:
    """What an ``If-Match`` asks for: an ETag, with or without quotes; None for no condition.

    Args:
        if_match: the header, if there is one.
        tag: regular expression of a tag.
        expected: says in a message what is accepted.

    Raises:
        BadRequest: ``invalid_if_match``.
    """
    if if_match is None or if_match.strip() == "*":
        return None
    found = re.fullmatch(rf'(?:W/)?"({tag})"|({tag})', if_match.strip())
    if found is None:
        msg = f"If-Match is {if_match!r}; expected {expected}, or *."
        raise BadRequest(msg, code="invalid_if_match", param="If-Match")
    return found[1] or found[2]


def tag(response: Response, name: str | int) -> None:
    """Give an answer the ETag of the state that it shows."""
    response.headers["etag"] = f'"{name}"'
