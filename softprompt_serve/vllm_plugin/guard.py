"""The last gate before the engine: what names a soft version goes with it, or not at all.

Every handler, known or not, reaches the engine through ``generate``. The gate attaches the
reference that workers act on, keeps a lease until the last token, and refuses a request whose
render step was not ours.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from functools import wraps
from typing import TYPE_CHECKING, Any

from softprompt_serve.artifact.content import keys_of
from softprompt_serve.errors import BadRequest, SoftpromptError, Unavailable
from softprompt_serve.server.scope import current
from softprompt_serve.vllm_plugin.answering import Answering
from softprompt_serve.vllm_plugin.reference import (
    KEY,
    Reference,
    check_pair,
    is_reserved,
    salt_for,
    with_reference,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from softprompt_serve.registry.snapshot import Version
    from softprompt_serve.server.callers import Callers
    from softprompt_serve.server.residency import Residency
    from softprompt_serve.server.scope import RequestScope
    from softprompt_serve.vllm_plugin.shadow import Shadows


class EngineGuard:
    """Wraps one engine client's ``generate``."""

    def __init__(
        self,
        residency: Residency,
        *,
        placeholder: int,
        shadows: Shadows | None = None,
        callers: Callers | None = None,
    ) -> None:
        """Lease from ``residency``; ``shadows`` copies what was sampled, ``callers`` may be asked."""
        self.residency = residency
        self.callers = callers
        self.placeholder = placeholder
        self.shadows = shadows

    def install(self, engine: Any) -> None:
        """Wrap the client that all of this server's handlers share."""
        generate = engine.generate

        @wraps(generate)
        def guarded(
            prompt: Any, sampling_params: Any, request_id: str, **kwargs: Any
        ) -> AsyncGenerator[Any, None]:
            # Not a generator itself: the scope must be read where the handler calls.
            scope = current()
            try:
                version = self._admit(scope, prompt, sampling_params)
            except SoftpromptError as error:
                raise scope.refuse(error) from None
            stream: AsyncGenerator[Any, None]
            if version is None:
                stream = generate(prompt, sampling_params, request_id, **kwargs)
            else:

                def start(attempt: int) -> AsyncGenerator[Any, None]:
                    suffix = f"-r{attempt}" if attempt else ""
                    reference, salted = self._by(version, prompt)
                    params = with_reference(sampling_params, reference)
                    again: AsyncGenerator[Any, None] = generate(
                        salted, params, request_id + suffix, **kwargs
                    )
                    return again

                stream = self._leased(version, start, request_id, scope)
            if scope.decision is None:
                return stream
            answer = Answering(scope, prompt, sampling_params, request_id, self.shadows)
            return answer.follow(stream)

        engine.generate = guarded

    def _admit(self, scope: RequestScope, prompt: Any, sampling_params: Any) -> Version | None:
        """The soft version that this request must have, or None if it has none.

        Raises:
            BadRequest: ``reserved_vllm_xargs``, ``reserved_cache_salt`` or
                ``softprompt_mismatch``.
            NotFound: ``model_not_found`` if the plain base model is not for this caller.
            Unavailable: ``softprompt_not_rendered`` if a prompt was asked for, but the handler
                took a way to the engine that we don't know.
        """
        extra = getattr(sampling_params, "extra_args", None) or {}
        if KEY in extra:
            msg = f"extra_args must not hold `{KEY}`; it is reserved."
            raise BadRequest(msg, code="reserved_vllm_xargs", param="extra_args")
        decision = scope.decision
        if decision is None and self.callers is not None:
            self.callers.check_model(
                scope, None
            )  # also where no handler asked for the model's name
        if decision is not None and not scope.added:
            msg = f"{decision.version.label} was not added to this request, so it is not answered."
            raise Unavailable(msg, code="softprompt_not_rendered", retry_after=None)
        rendered = prompt if isinstance(prompt, dict) else {}
        salt = rendered.get("cache_salt")
        if decision is None or not decision.version.learned:
            if is_reserved(salt):
                msg = "cache_salt must not begin with `sp:`; it is reserved."
                raise BadRequest(msg, code="reserved_cache_salt", param="cache_salt")
            return None
        version = decision.version
        check_pair(Reference.to(version), salt, rendered.get("prompt_token_ids"), self.placeholder)
        return version

    def _by(self, version: Version, prompt: Any) -> tuple[Reference, Any]:
        """The way on which the version comes, and the prompt with that way's salt.

        Keys and values that are kept for it save its prefill. They have blocks of their own in the
        prefix cache, so that what was computed and what was loaded never meet.
        """
        if version.kind != "soft" or not self.residency.has_keys(version):
            return Reference.to(version), prompt
        keys, mine = keys_of(version.digest), salt_for(version.digest, None)
        salt = salt_for(keys, None) + prompt["cache_salt"].removeprefix(mine)
        return Reference(keys, version.virtual_tokens, "keys"), {**prompt, "cache_salt": salt}

    async def _leased(
        self,
        version: Version,
        start: Callable[[int], AsyncGenerator[Any, None]],
        request_id: str,
        scope: RequestScope,
    ) -> AsyncGenerator[Any, None]:
        """Run the request under a lease of its own; a background answer outlives its HTTP call.

        A version that turns out to be lost is loaded again and the request started once more, as
        long as nothing has been answered.

        Raises:
            Unavailable: ``softprompt_lost`` if that is not possible, or too late.
        """
        lease = self.residency.lease(version)
        try:
            await self.residency.ensure(version)
            for attempt in (0, 1):
                answered = False
                # Closed here, not by the collector: the engine stops before the lease ends.
                async with aclosing(start(attempt)) as outputs:
                    async for output in outputs:
                        if _failed(output):
                            if answered:
                                await self._broken(version)
                            elif await self._lost(version, attempt):
                                break
                        answered = True
                        output.request_id = request_id
                        yield output
                    else:
                        return
        except SoftpromptError as error:
            raise scope.refuse(error) from None
        finally:
            lease.release()

    async def _lost(self, version: Version, attempt: int) -> bool:
        """Whether to start once more: the version is resident now, and this was the first try.

        Also if it was resident when asked: another request that failed may have loaded it again.
        """
        if await self._recover(version) and attempt:
            msg = f"{version.label} was lost again while the request ran."
            raise Unavailable(msg, code="softprompt_lost")
        return not attempt

    async def _broken(self, version: Version) -> None:
        """Load what was lost in the middle of an answer, for those who ask next.

        If it wasn't, or has been loaded for another request, the engine's error is the answer's.
        """
        if await self._recover(version):
            msg = f"{version.label} was lost in the middle of the answer; ask again."
            raise Unavailable(msg, code="softprompt_lost")

    async def _recover(self, version: Version) -> bool:
        try:
            async with asyncio.timeout(30):
                return await self.residency.recover(version)
        except (SoftpromptError, TimeoutError) as error:
            msg = f"{version.label} is not resident on the workers and can't be loaded: {error}"
            raise Unavailable(msg, code="softprompt_lost") from error


def _failed(output: Any) -> bool:
    """Whether the engine ended this request with an error."""
    return any(choice.finish_reason == "error" for choice in output.outputs)
