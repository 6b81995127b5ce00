"""An answer as it comes in: server-sent events, put together."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from softprompt_serve.evaluation.replies import ToolCall

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

Json = dict[str, Any]


@dataclass(slots=True)
class Stream:
    """What has come of one answer so far.

    Attributes:
        began, first: when it was asked for, and when the first token came; ``perf_counter`` seconds.
        text: its parts.
        usage: OpenAI's, with the last chunk.
        finished: whether the model said that it ended.
        failed: the code of an error in the middle of the stream.
    """

    began: float
    first: float | None = None
    text: list[str] = field(default_factory=list)
    usage: Json = field(default_factory=dict)
    finished: bool = False
    failed: str | None = None
    _calls: dict[int, Json] = field(default_factory=dict)

    def take(self, chunk: Json) -> None:
        """Add one chunk, of a chat or of a completion."""
        if isinstance(chunk.get("error"), dict):
            self.failed = stable_code(chunk["error"].get("code") or chunk["error"].get("type"))
        self.usage = chunk.get("usage") or self.usage
        for choice in chunk.get("choices", ()):
            delta = choice.get("delta") or {}
            text = choice.get("text") or delta.get("content") or ""
            calls = delta.get("tool_calls") or ()
            if self.first is None and (text or calls or delta.get("reasoning_content")):
                self.first = time.perf_counter()
            self.text.append(text)
            for call in calls:
                self._add_call(call)
            self.finished = self.finished or choice.get("finish_reason") is not None

    def _add_call(self, delta: Json) -> None:
        function = delta.get("function") or {}
        kept = self._calls.setdefault(delta.get("index", 0), {"name": "", "arguments": ""})
        kept["name"] += function.get("name") or ""
        kept["arguments"] += function.get("arguments") or ""

    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls, put together from their parts."""
        return tuple(ToolCall(**call) for _, call in sorted(self._calls.items()))


async def events_of(response: httpx.Response) -> AsyncIterator[Json]:
    """The chunks of a response of server-sent events; one that is no JSON becomes an error."""
    async for line in response.aiter_lines():
        data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
        if data and data != "[DONE]":
            try:
                chunk = json.loads(data)
            except ValueError:
                yield {"error": {"code": "invalid_stream"}}
                return
            yield chunk if isinstance(chunk, dict) else {}


def stable_code(code: object) -> str:
    """A code of lower-case letters, digits and underscores, whatever a server sends."""
    return re.sub(r"[^a-z0-9_]+", "_", str(code).lower()).strip("_")[:64] or "unknown_error"
