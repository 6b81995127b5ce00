"""What stands for vLLM where our own part of a request is measured: it answers in no time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from softprompt_serve.testing import BASE_MODEL

VISIBLE, OUTPUTS = 64, 8


class Renderer:
    """vLLM's ``OnlineRenderer``: the same visible tokens, whatever is asked."""

    async def render_chat(self, _request: Any, **_named: Any) -> Any:
        return [], [{"type": "token", "prompt_token_ids": list(range(VISIBLE))}]

    render_completion = render_responses = render_chat


class Engine:
    """vLLM's engine client: an answer in so many deltas, in no time."""

    def __init__(self) -> None:
        outputs = [_output(index, last=index == OUTPUTS - 1) for index in range(OUTPUTS)]

        async def generate(_prompt: Any, _params: Any, _request_id: str, **_named: Any) -> Any:
            for output in outputs:
                yield output

        self.generate: Any = generate


class Models:
    """vLLM's ``OpenAIServingModels`` with one base model."""

    def is_base_model(self, name: str) -> bool:
        return name == BASE_MODEL

    def model_name(self, _lora: Any = None) -> str:
        return BASE_MODEL

    async def show_available_models(self) -> Any:
        return SimpleNamespace(data=[])


class Handler:
    """vLLM's ``OpenAIServingChat``, as far as it checks the model."""

    def __init__(self, models: Any) -> None:
        self.models = models

    async def _check_model(self, request: Any) -> None:
        self.models.is_base_model(request.model)


def _output(index: int, *, last: bool) -> Any:
    stats = SimpleNamespace(
        first_token_latency=0.01,
        arrival_time=0.0,
        queued_ts=1.0,
        scheduled_ts=1.1,
        first_token_ts=1.2,
    )
    choice = SimpleNamespace(
        index=0, token_ids=[index], text="", finish_reason="stop" if last else None
    )
    return SimpleNamespace(
        request_id="", outputs=[choice], finished=last, metrics=stats, num_cached_tokens=0
    )
