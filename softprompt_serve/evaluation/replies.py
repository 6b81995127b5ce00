"""What a version answered, and what was to be asked of whom."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from softprompt_serve.artifact import base
from softprompt_serve.errors import BadRequest, NotFound
from softprompt_serve.release.evidence import Answer, Base

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BASE: Final = "base"
"""The name under which the plain base model is asked beside a prompt's versions."""


@dataclass(frozen=True, slots=True)
class Target:
    """One version that is asked.

    Attributes:
        version: its name in evidence.
        model: its name in requests, ``PROMPT@VERSION`` or the base model's.
        digest: SHA-256 of its content; of no content for the base model.
        prompt: whether it is a version of the prompt, which every answer's headers must then say.
    """

    version: str
    model: str
    digest: str
    prompt: bool = True


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One tool that an answer calls.

    Attributes:
        name: the function's.
        arguments: its arguments as the model wrote them, which may be no JSON.
    """

    name: str
    arguments: str

    def parsed(self) -> Any:
        """The arguments as data; None where they are no JSON."""
        try:
            return json.loads(self.arguments or "{}")
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Reply:
    """One version's answer to one item, in full; evidence keeps ``answer`` alone.

    Attributes:
        answer: what it cost, or why there is none.
        text: what it says.
        tool_calls: what it calls.
    """

    answer: Answer
    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


def content_sha256(text: str, calls: Sequence[ToolCall]) -> str:
    """SHA-256 of an answer: of its text, and after it of the calls if it has any."""
    sha = hashlib.sha256(_bytes(text))
    for call in calls:
        sha.update(b"\0" + _bytes(call.name) + b"\0" + _bytes(call.arguments))
    return sha.hexdigest()


def _bytes(text: str) -> bytes:
    return text.encode(errors="replace")  # half of a surrogate pair is no character


def targets_of(
    prompt: Mapping[str, Any], server: Mapping[str, Any], names: Sequence[str]
) -> tuple[Target, ...]:
    """What to ask, from the admin API's answers.

    Args:
        prompt: of ``GET /prompts/{name}``.
        server: of ``GET /server``.
        names: versions or aliases. ``base`` is, unless the prompt calls something so, its version of
            kind ``base`` or, without one, the served base model itself.

    Raises:
        NotFound: ``version_not_found``.
        BadRequest: ``duplicate_version``: two of the names are one version; or none is given.
    """
    versions = {version["version"]: version for version in prompt["versions"]}
    plain = [name for name, version in versions.items() if version["kind"] == BASE]
    aliases = {**({BASE: plain[-1]} if plain else {}), **prompt["aliases"]}
    found: dict[str, Target] = {}
    for name in names:
        version = name if name in versions else aliases.get(name, name)
        if version in versions:
            label = f"{prompt['name']}@{version}"
            target = Target(version, label, versions[version]["digest"])
        elif version == BASE:
            target = Target(BASE, server["served_names"][0], base_digest(), prompt=False)
        else:
            there = ", ".join([*versions, *prompt["aliases"], BASE])
            msg = f"{prompt['name']} has no version {name!r}; there are {there}."
            raise NotFound(msg, code="version_not_found", param="versions")
        if target.version in found:
            msg = f"{name!r} is {target.version}, which is asked already."
            raise BadRequest(msg, code="duplicate_version", param="versions")
        found[target.version] = target
    if not found:
        msg = "Give at least one version."
        raise BadRequest(msg, code="invalid_request", param="versions")
    return tuple(found.values())


def base_digest() -> str:
    """The digest of every version of kind ``base``: of no content at all."""
    return base().content.digest


def base_of(server: Mapping[str, Any]) -> Base:
    """The served base model, from ``GET /server``."""
    model = server["base_model"]
    return Base(
        model["name"],
        model["revision"],
        model["fingerprint"],
        model["tokenizer_fingerprint"],
        model["chat_template_sha256"],
    )
