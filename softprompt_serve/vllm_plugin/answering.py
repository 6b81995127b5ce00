"""One engine input's answer on its way to the handler: noted, and copied if it was sampled."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from vllm.sampling_params import RequestOutputKind

from softprompt_serve.shadow.types import Answer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from softprompt_serve.server.scope import RequestScope
    from softprompt_serve.shadow.runner import Pending
    from softprompt_serve.vllm_plugin.shadow import Copy, Shadows


class Answering:
    """Follows one stream of ``RequestOutput`` without changing it."""

    def __init__(
        self,
        scope: RequestScope,
        prompt: Any,
        params: Any,
        request_id: str,
        shadows: Shadows | None,
    ) -> None:
        """Made where the handler calls, whose scope it is."""
        self.scope = scope
        self.prompt = prompt
        self.params = params
        self.request_id = request_id
        self.shadows = shadows
        self.copy: Copy | None = scope.copy
        span = scope.span
        self._told = None if span is None or not span.wants_content else span
        keep = self.copy is not None or self._told is not None
        self.heard = Heard(params.output_kind, keep=keep)
        self._pending: Pending | None = None
        scope.copy = None  # of a loop of calls only the first is copied

    async def follow(self, stream: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
        """Hand on every output; the first begins a sampled shadow, the last one completes it."""
        ids = self.prompt.get("prompt_token_ids") if isinstance(self.prompt, dict) else None
        decision, record = self.scope.decision, self.scope.record
        virtual = 0 if decision is None else decision.version.virtual_tokens
        record.entered(self.request_id, len(ids or ()), virtual)
        if self.shadows is not None:
            self.shadows.user_came()
        try:
            async with aclosing(stream) as outputs:
                async for output in outputs:
                    record.saw(output)
                    self.heard.hear(output)
                    if output.finished:
                        record.left(output, self.heard.tokens)
                        if self._told is not None:
                            self._told.content("output", "".join(self.heard.text))
                    if self.copy is not None:
                        self._shadow(self.copy, finished=output.finished)
                    yield output
        finally:
            if self.shadows is not None:
                self.shadows.user_left()
            if self._pending is not None:
                self._pending.dropped()

    def _shadow(self, copy: Copy, *, finished: bool) -> None:
        """Begin with the first token, complete with the last."""
        if self.shadows is None:
            return
        if self._pending is None and self.heard.tokens:
            self._pending = self.shadows.begin(copy, self)
            if self._pending is None:
                self.copy = None  # it was shed
                return
        if finished and self._pending is not None:
            self._pending.answered(self._answer(copy))
            self._pending = self.copy = None

    def _answer(self, copy: Copy) -> Answer:
        ttft, e2e = self.scope.record.latency()
        text = "".join(self.heard.text)
        return Answer(
            text=text,
            token_ids=tuple(self.heard.token_ids),
            finish_reason=self.heard.finish_reason,
            ttft_seconds=ttft,
            e2e_seconds=e2e,
            output_tokens=len(self.heard.token_ids),
            tool_calls=() if self.shadows is None else self.shadows.tool_calls(text, copy),
        )


class Heard:
    """What has been said so far, whichever way vLLM cuts it into outputs.

    Attributes:
        tokens: generated so far, over all choices.
        text, token_ids, finish_reason: of the first choice, only if they are kept.
    """

    __slots__ = ("_counts", "_keep", "_kind", "finish_reason", "text", "token_ids")

    def __init__(self, kind: Any, *, keep: bool) -> None:
        """Nothing yet."""
        self._kind = kind
        self._keep = keep
        self._counts: dict[int, int] = {}
        self.text: list[str] = []
        self.token_ids: list[int] = []
        self.finish_reason: str | None = None

    @property
    def tokens(self) -> int:
        """Tokens of all choices."""
        return sum(self._counts.values())

    def hear(self, output: Any) -> None:
        """Take one ``RequestOutput``."""
        delta = self._kind == RequestOutputKind.DELTA
        for choice in output.outputs:
            before = self._counts.get(choice.index, 0) if delta else 0
            self._counts[choice.index] = before + len(choice.token_ids)
            if self._keep and choice.index == 0:
                if not delta:
                    self.text, self.token_ids = [], []
                self.text.append(choice.text)
                self.token_ids.extend(choice.token_ids)
                self.finish_reason = choice.finish_reason
