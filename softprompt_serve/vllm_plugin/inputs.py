"""Where the engine inputs are in what vLLM's render methods return, and what they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from softprompt_serve.vllm_plugin import carry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from softprompt_serve.settings import Settings


def ids_of(engine_input: dict[str, Any]) -> list[int]:
    """The token ids of an engine input; none if it brings embeddings."""
    return engine_input.get("prompt_token_ids") or []


def inputs_of_chat(rendered: Any) -> list[dict[str, Any]]:
    """Of ``render_chat``: the conversation and its inputs, or an error response."""
    return rendered[1] if isinstance(rendered, tuple) else []


def inputs_of_completion(rendered: Any) -> list[dict[str, Any]]:
    """Of ``render_completion``: the inputs, or an error response."""
    return rendered if isinstance(rendered, list) else []


def inputs_of_responses(rendered: Any) -> list[dict[str, Any]]:
    """Of ``render_responses``: a result with one input, or an error response."""
    return [rendered.engine_input] if hasattr(rendered, "engine_input") else []


def counting(renderer: Any, settings: Settings) -> Callable[[Any], Awaitable[int]]:
    """A function that counts a request's visible tokens: those of its longest input.

    It renders with the methods as they are now, so call this before they are wrapped. What can't
    be rendered counts 0: the handler's own attempt says what is wrong with it. Of
    ``/v1/responses``, turns that the server keeps are not counted. The function raises BadRequest
    as :func:`~softprompt_serve.vllm_plugin.carry.refuse_forged`.
    """
    chat, completion = renderer.render_chat, renderer.render_completion
    responses = renderer.render_responses

    async def count(request: Any) -> int:
        carry.refuse_forged(request, settings)
        # A copy, because rendering adjusts a request for its tools and its output's structure.
        copy = request.model_copy()
        if hasattr(copy, "messages"):
            inputs = inputs_of_chat(await chat(copy))
        elif hasattr(copy, "input"):
            inputs = inputs_of_responses(await responses(copy))
        else:
            inputs = inputs_of_completion(await completion(copy))
        return max((len(ids_of(engine_input)) for engine_input in inputs), default=0)

    return count
