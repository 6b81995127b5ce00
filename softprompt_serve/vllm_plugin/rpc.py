"""The engine's workers, reached by ``collective_rpc``; implements ``server.residency.Workers``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from softprompt_serve import errors

if TYPE_CHECKING:
    from collections.abc import Collection

_TIMEOUT_SECONDS = 60.0
_LOOK_SECONDS = 0.5


class EngineWorkers:
    """Calls reach every worker of the engine; an answer that differs between ranks is an error."""

    def __init__(self, engine: Any) -> None:
        """``engine`` is vLLM's ``EngineClient``."""
        self._engine = engine

    async def load(self, header: bytes, data: bytes, keep: Collection[str]) -> tuple[str, ...]:
        """See :class:`~softprompt_serve.server.residency.Workers`."""
        answers = await self._call("softprompt_load", header, data, list(keep))
        return tuple({digest for answer in answers for digest in answer["evicted"]})

    async def restore(self, digest: str, keep: Collection[str]) -> bool:
        """See :class:`~softprompt_serve.server.residency.Workers`."""
        answers = await self._call("softprompt_restore", digest, list(keep))
        return all(answer["restored"] for answer in answers)

    async def unload(self, digest: str, *, forget: bool) -> None:
        """See :class:`~softprompt_serve.server.residency.Workers`."""
        await self._call("softprompt_unload", digest, forget)

    async def status(self) -> list[dict[str, Any]]:
        """See :class:`~softprompt_serve.server.residency.Workers`."""
        return await self._call("softprompt_status")

    async def embed(self, token_ids: list[int]) -> tuple[list[int], bytes]:
        """The model's own input embeddings, ``[len(token_ids), hidden_size]`` as float32 bytes."""
        first = (await self._call("softprompt_embed", token_ids))[0]
        return first["shape"], first["data"]

    async def _call(self, method: str, *args: Any) -> list[dict[str, Any]]:
        try:
            answers = await self._answers(method, args)
        except errors.SoftpromptError:
            raise
        except Exception as error:
            msg = f"The engine's workers did not answer {method}: {error}"
            raise errors.Unavailable(msg, code="workers_failed") from error
        for answer in answers:
            if problem := answer.get("error"):
                raise _rebuilt(problem)
        return answers

    async def _answers(self, method: str, args: tuple[Any, ...]) -> list[dict[str, Any]]:
        """What vLLM's call answers; it never returns if the engine dies meanwhile (0.32).

        Whoever waited would wait for ever, and a server that is to end waits for its callers.
        """
        call = asyncio.ensure_future(
            self._engine.collective_rpc(method, timeout=_TIMEOUT_SECONDS, args=args)
        )
        try:
            while not (await asyncio.wait({call}, timeout=_LOOK_SECONDS))[0]:
                if self._engine.errored:
                    msg = "the engine is dead"
                    raise RuntimeError(msg)
            answers: list[dict[str, Any]] = call.result()
        finally:
            call.cancel()
        return answers


def _rebuilt(problem: dict[str, Any]) -> errors.SoftpromptError:
    """The error that a worker reported, as an exception of its own class."""
    kind = getattr(errors, problem["class"], errors.SoftpromptError)
    error: errors.SoftpromptError = kind(
        problem["message"], code=problem["code"], retry_after=problem["retry_after"]
    )
    return error
