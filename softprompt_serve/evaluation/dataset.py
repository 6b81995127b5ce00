"""Data sets: items in JSON lines, checked before anything is asked, and their canonical hash."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from softprompt_serve.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

MAX_ITEMS: Final = 200_000
_ID_DIGITS: Final = 16
_ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool"})
_LISTED_PROBLEMS: Final = 3

Id = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Cohort = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Tools = Annotated[list[dict[str, JsonValue]], Field(min_length=1)]


class Item(BaseModel):
    """One question with what is known of its answer.

    Attributes:
        id: unique in its data set; where absent, from the content.
        messages: of a chat; or
        prompt: of a plain completion.
        expected: the right answer: a text, a list of texts of which one is right, or JSON.
        cohort: whose question it is; results are kept by it.
        context: documents that a faithful answer keeps to. For evaluators: they are not sent.
        tools, tool_choice: sent with the messages.
        metadata: anything else, for a team's own evaluators.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    id: Id
    messages: Annotated[list[dict[str, JsonValue]] | None, Field(min_length=1)] = None
    prompt: Annotated[str | None, Field(min_length=1)] = None
    expected: JsonValue = None
    cohort: Cohort = "default"
    context: list[str] = []
    tools: Tools | None = None
    tool_choice: JsonValue = None
    metadata: dict[str, JsonValue] = {}

    @model_validator(mode="after")
    def _asks_one_thing(self) -> Self:
        if (self.messages is None) == (self.prompt is None):
            msg = "give either `messages` or `prompt`"
            raise ValueError(msg)
        for at, message in enumerate(self.messages or ()):
            if message.get("role") not in _ROLES:
                msg = f"messages.{at}.role must be one of {', '.join(sorted(_ROLES))}"
                raise ValueError(msg)
        if self.prompt is not None and self.tools is not None:
            msg = "`tools` go with `messages`"
            raise ValueError(msg)
        return self

    @property
    def question(self) -> str:
        """The prompt, or the last user message's text."""
        if self.prompt is not None:
            return self.prompt
        asked = [m.get("content") for m in self.messages or () if m["role"] == "user"]
        return next((text for text in reversed(asked) if isinstance(text, str)), "")

    @property
    def canonical(self) -> str:
        """JSON with sorted keys and without what is not given."""
        return canonical_json(self.model_dump(mode="json", exclude_defaults=True))


@dataclass(frozen=True, slots=True)
class Dataset:
    """Items in the order of their file.

    Attributes:
        name: what evidence and policies call it.
        items: at least one, of distinct ids.
    """

    name: str
    items: tuple[Item, ...]

    @property
    def sha256(self) -> str:
        """Over the items' canonical JSON, a line each, by ascending id: no order, no spacing."""
        sha = hashlib.sha256()
        for item in sorted(self.items, key=lambda item: item.id):
            sha.update(item.canonical.encode() + b"\n")
        return sha.hexdigest()


def load_dataset(path: Path, name: str | None = None, *, limit: int | None = None) -> Dataset:
    """Read a file of JSON lines; blank lines are skipped.

    Args:
        path: the file.
        name: its name in evidence; else the file's, without its suffix.
        limit: only the first so many items; the hash is then theirs.

    Raises:
        BadRequest: ``invalid_dataset``, with the file's name and the line's number.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path} can't be read as UTF-8 text: {error}"
        raise BadRequest(msg, code="invalid_dataset") from error
    numbered = ((at, line) for at, line in enumerate(lines, 1) if line.strip())
    return Dataset(name or path.stem, tuple(_items(str(path), numbered, limit)))


def _items(place: str, lines: Iterable[tuple[int, str]], limit: int | None) -> list[Item]:
    items: list[Item] = []
    seen: dict[str, int] = {}
    for at, line in lines:
        if limit is not None and len(items) == limit:
            break
        try:
            item = parse_item(json.loads(line))
        except (ValueError, RecursionError) as error:
            msg = f"{place}:{at}: {error}"
            raise BadRequest(msg, code="invalid_dataset", param=f"line {at}") from error
        if item.id in seen:
            msg = f"{place}:{at}: {item.id!r} stands in line {seen[item.id]} already."
            raise BadRequest(msg, code="invalid_dataset", param=f"line {at}")
        seen[item.id] = at
        items.append(item)
    if not 0 < len(items) <= MAX_ITEMS:
        msg = f"{place} has {len(items)} items; expected 1 to {MAX_ITEMS}."
        raise BadRequest(msg, code="invalid_dataset")
    return items


def parse_item(data: Any) -> Item:
    """An item from one line's JSON.

    A line with ``text`` is taken as a labelled text: ``text`` is the user's message, ``label``
    what is expected, and what else it holds is metadata.

    Raises:
        ValueError: what is wrong, by field.
    """
    if not isinstance(data, dict):
        msg = "expected a JSON object"
        raise ValueError(msg)  # noqa: TRY004 - all that is wrong with a line is a ValueError
    given = _labelled(data) if "text" in data else dict(data)
    # Also a check: Python reads NaN and half characters, which can't be sent.
    content = canonical_json({key: part for key, part in given.items() if key != "id"}).encode()
    if given.get("id") is None:
        given["id"] = hashlib.sha256(content).hexdigest()[:_ID_DIGITS]
    if isinstance(given.get("context"), str):
        given["context"] = [given["context"]]
    try:
        return Item.model_validate(given)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in e['loc']) or 'the item'}: {e['msg']}"
            for e in error.errors(include_url=False)
        ]
        rest = "; …" if len(problems) > _LISTED_PROBLEMS else ""
        raise ValueError("; ".join(problems[:_LISTED_PROBLEMS]) + rest) from error


def _labelled(data: Mapping[str, Any]) -> dict[str, Any]:
    known = {name: data[name] for name in ("id", "cohort", "context") if name in data}
    rest = {name: part for name, part in data.items() if name not in {"text", "label", *known}}
    return {
        **known,
        "messages": [{"role": "user", "content": data["text"]}],
        "expected": data.get("label"),
        "metadata": rest,
    }


def canonical_json(data: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no escapes but those needed.

    Raises:
        ValueError: NaN or an infinity, which JSON has no word for.
    """
    return json.dumps(
        data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
