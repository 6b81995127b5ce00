"""Native prompt_embeds without HTTP: vLLM's asynchronous engine, in the benchmark's own process.

What is left of transport is what vLLM itself does: embeddings go to the engine's process over a
local socket. Nothing of ours is loaded.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from cost.figures import Answer

if TYPE_CHECKING:
    from pathlib import Path

    import torch


class Embedded:
    """vLLM's engine; ask it from one event loop, and close it."""

    def __init__(self, model: Path, **flags: Any) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = AsyncEngineArgs(model=str(model), enable_prompt_embeds=True, **flags)
        self._engine = AsyncLLM.from_engine_args(arguments)
        self._asked = 0

    def close(self) -> None:
        """End its process."""
        self._engine.shutdown()

    async def answers(
        self, prompts: list[torch.Tensor], tokens: int, concurrency: int
    ) -> tuple[Answer, ...]:
        """``tokens`` new ones for each prompt ``[length, hidden_size]``, ``concurrency`` at once."""
        waiting, found = iter(prompts), list[Answer]()

        async def caller() -> None:
            for prompt in waiting:
                found.append(await self._ask(prompt, tokens))

        await asyncio.gather(*(caller() for _ in range(concurrency)))
        return tuple(found)

    async def _ask(self, prompt: torch.Tensor, tokens: int) -> Answer:
        from vllm import SamplingParams
        from vllm.inputs import EmbedsPrompt
        from vllm.sampling_params import RequestOutputKind

        sampling = SamplingParams(
            max_tokens=tokens,
            temperature=0,
            ignore_eos=True,
            output_kind=RequestOutputKind.DELTA,
        )
        self._asked += 1
        moments, begun = list[float](), time.perf_counter()
        async for _ in self._engine.generate(
            EmbedsPrompt(prompt_embeds=prompt), sampling, str(self._asked)
        ):
            moments.append(time.perf_counter())
        return Answer.at(begun, moments)
