"""The tool calls that an answer asks for, read as vLLM reads them; none is made."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def tool_parser_of(renderer: Any) -> Callable[[str, Any], tuple[tuple[str, str], ...]] | None:
    """The served model's own tool parser as a function of an answer's text, or None."""
    parser = getattr(renderer.parser, "tool_parser_cls", None)
    if parser is None:
        return None

    def parse(text: str, request: Any) -> tuple[tuple[str, str], ...]:
        tokenizer = renderer.renderer.tokenizer
        found = parser(tokenizer, request.tools).extract_tool_calls(text, request)
        return tuple(
            (call.function.name, _canonical(call.function.arguments)) for call in found.tool_calls
        )

    return parse


def _canonical(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments), sort_keys=True, ensure_ascii=False)
    except ValueError:
        return arguments
