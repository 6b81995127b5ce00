"""Compute a version's virtual tokens once, before users come.

Their keys and values are the same for every request. A soft version's are caught and kept in the bank
where it has room, and then no request computes them any more, whatever n is. Where it has none, whole
blocks of them are at least in vLLM's prefix cache.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

from softprompt_serve.vllm_plugin.reference import Reference, salt_for, with_reference

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    from softprompt_serve.registry.snapshot import Version
    from softprompt_serve.server.residency import Residency

logger = logging.getLogger(__name__)

PATIENCE_SECONDS: Final = 0.8
"""For so long a swap waits for it: under a second, whatever keeps the engine busy."""

_REMEMBERED: Final = 4096


class Warming:
    """Sends each version that comes into production through the engine once, with one token.

    Args:
        generate: the engine's own; nothing of this is anybody's request.
        residency: who holds the rows meanwhile.
        placeholder: the token id that stands for virtual ones.
        block: tokens of a KV block; fewer virtual tokens than that are never reused.
        keep: whether keys and values are kept in the bank.
        cached: whether vLLM has a prefix cache.
        more: further arguments of ``generate``, such as a low priority.
    """

    def __init__(
        self,
        generate: Callable[..., AsyncGenerator[Any, None]],
        residency: Residency,
        *,
        placeholder: int,
        block: int,
        keep: bool,
        cached: bool,
        more: dict[str, Any],
    ) -> None:
        self._generate = generate
        self._residency = residency
        self._placeholder = placeholder
        self._block = block
        self._keep = keep
        self._cached = cached
        self._more = more
        self._known: dict[str, bool] = {}  # digest → whether its keys and values were kept
        self._running: set[asyncio.Task[None]] = set()
        self._one_at_a_time = asyncio.Lock()

    async def __call__(self, versions: Iterable[Version]) -> None:
        """Warm those that are new; waits a moment, and goes on in the background after that."""
        new = {
            version.digest: version
            for version in versions
            if self._pays(version) and not self._is_warm(version)
        }
        if not new:
            return
        known = self._known | dict.fromkeys(new, False)
        self._known = dict(list(known.items())[-_REMEMBERED:])
        task = asyncio.create_task(self._warm(list(new.values())), name="softprompt-warming")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await asyncio.wait({task}, timeout=PATIENCE_SECONDS)

    async def _warm(self, versions: list[Version]) -> None:
        for version in versions:
            try:
                async with self._one_at_a_time:
                    await self._run(version)
            except Exception as error:  # noqa: BLE001 - it only would have saved time
                self._known.pop(version.digest, None)
                logger.warning("%s could not be warmed up: %s", version.label, error)

    def _pays(self, version: Version) -> bool:
        """Whether it computes anything that can be spared; a prefix doesn't."""
        if version.kind != "soft":
            return False
        return self._keep or (self._cached and version.virtual_tokens >= self._block)

    def _is_warm(self, version: Version) -> bool:
        """Whether it was done before; what was kept then may have been evicted since."""
        kept = self._known.get(version.digest)
        return kept is not None and (not kept or self._residency.has_keys(version))

    async def _run(self, version: Version) -> None:
        lease = self._residency.lease(version)
        try:
            await self._residency.ensure(version)
            if self._keep and await self._has_room(version):
                # A salt of its own, so that all is computed and nothing is found.
                salt = salt_for(version.digest, secrets.token_hex(8))
                await self._send(Reference(version.digest, version.virtual_tokens, "caught"), salt)
                await self._residency.refresh()
                if self._residency.has_keys(version):
                    self._known[version.digest] = True
                    return
            if self._cached and version.virtual_tokens >= self._block:
                await self._send(Reference.to(version), salt_for(version.digest, None))
        finally:
            lease.release()

    async def _has_room(self, version: Version) -> bool:
        """Whether all workers have room for its keys and values: computed for nothing they cost."""
        statuses = await self._residency.refresh()
        return all(status["keys_room"] >= version.virtual_tokens for status in statuses)

    async def _send(self, reference: Reference, salt: str) -> None:
        from vllm import SamplingParams  # noqa: PLC0415 - heavy, and only needed here
        from vllm.inputs import tokens_input  # noqa: PLC0415

        prompt = tokens_input([self._placeholder] * (reference.rows + 1), cache_salt=salt)
        params = with_reference(SamplingParams(max_tokens=1, temperature=0.0), reference)
        name = f"softprompt-warming-{secrets.token_hex(8)}"
        async with aclosing(self._generate(prompt, params, name, **self._more)) as outputs:
            async for _ in outputs:
                pass

    async def start(self) -> None:
        """Nothing runs before a version comes."""

    async def stop(self) -> None:
        """Give up what is under way."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
