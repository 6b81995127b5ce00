"""Copies of user requests for another version, sent to the same engine behind every user's.

Implements :class:`~softprompt_serve.shadow.types.ShadowEngine`. A copy enters the engine below
:class:`~softprompt_serve.vllm_plugin.guard.EngineGuard`, so it has a lease and a reference of its
own, and the least urgent priority that vLLM's scheduler knows.
"""

from __future__ import annotations

import secrets
import time
from contextlib import aclosing
from copy import copy as shallow
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vllm.sampling_params import RequestOutputKind, SamplingParams

from softprompt_serve.errors import Unavailable
from softprompt_serve.router.split import share
from softprompt_serve.shadow.types import Answer, Job
from softprompt_serve.vllm_plugin import carry
from softprompt_serve.vllm_plugin.reference import Reference, salt_for, with_reference

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from softprompt_serve.registry.snapshot import Version
    from softprompt_serve.rollout.spec import Shadow
    from softprompt_serve.server.scope import RequestScope
    from softprompt_serve.server.service import Service
    from softprompt_serve.shadow.runner import Pending, Runner
    from softprompt_serve.telemetry.tracing import ShadowSpan, Tracing
    from softprompt_serve.vllm_plugin.answering import Answering

LEAST_URGENT: Final = 2**31 - 1
"""Larger is later in vLLM's priority scheduling."""


@dataclass(frozen=True, slots=True)
class Copy:
    """What was kept of a sampled request before its version's text was added.

    Attributes:
        candidate: the version that shall answer the copy.
        shadow: what the rollout says about it.
        request: vLLM's request object, a copy of it.
        render: the handler's own render method, unwrapped; awaits to what ``inputs_of`` reads.
        inputs_of: finds the engine inputs in what was rendered.
    """

    candidate: Version
    shadow: Shadow
    request: Any
    render: Callable[..., Awaitable[Any]]
    inputs_of: Callable[[Any], list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Source:
    """How to build one engine input again: ``Job.source``.

    Attributes:
        copy: the sampled request.
        prompt: the user's engine input, placeholders and salt included.
        params: the user's sampling parameters.
        user: the version that answers the user.
    """

    copy: Copy
    prompt: dict[str, Any]
    params: Any
    user: Version


class Shadows:
    """Samples requests, offers them to the runner, and runs what the runner lets through."""

    def __init__(
        self,
        service: Service,
        engine: Any,
        *,
        placeholder: int,
        max_model_len: int,
        prioritised: bool,
        tool_parser: Callable[[str, Any], tuple[tuple[str, str], ...]] | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """Use ``engine.generate`` as it is now, before the guard wraps it."""
        self.service = service
        self.placeholder = placeholder
        self.max_model_len = max_model_len
        self.runner: Runner | None = None
        self._generate = engine.generate
        self._prioritised = prioritised
        self._tool_parser = tool_parser
        self._tracing = tracing
        self._in_flight = 0

    def sample(
        self,
        request: Any,
        scope: RequestScope,
        render: Callable[..., Awaitable[Any]],
        inputs_of: Callable[[Any], list[dict[str, Any]]],
    ) -> None:
        """Keep a copy of the request if its rollout has a shadow and this one is drawn."""
        decision = scope.decision
        if self.runner is None or decision is None or decision.reason in {"pinned", "alias"}:
            return
        prompt = self.service.snapshot.prompt(decision.version.prompt)
        rollout = None if prompt is None else prompt.rollout
        if prompt is None or rollout is None or rollout.spec is None:
            return
        shadow = rollout.spec.shadow
        if shadow is None or share(f"shadow {request.request_id}") >= shadow.sample:
            return
        candidate = prompt.versions.get(shadow.version)
        # A version is compared with itself only where it is all there is.
        if candidate is None or (candidate == decision.version and len(rollout.weights) > 1):
            return
        scope.copy = Copy(candidate, shadow, request.model_copy(), render, inputs_of)

    def begin(self, copy: Copy, answering: Answering) -> Pending | None:
        """The user's answer has begun: offer the copy; None if it was shed."""
        decision, prompt = answering.scope.decision, answering.prompt
        if self.runner is None or decision is None or not isinstance(prompt, dict):
            return None
        return self.runner.offer(
            Job(
                request_id=answering.request_id,
                decision=decision,
                candidate=copy.candidate,
                shadow=copy.shadow,
                wants_json=_wants_json(answering.params),
                source=Source(copy, prompt, answering.params, decision.version),
                span=self._span(copy, answering.scope),
            )
        )

    def _span(self, copy: Copy, scope: RequestScope) -> ShadowSpan | None:
        if self._tracing is None:
            return None
        of = None if scope.span is None else scope.span.ref
        return self._tracing.shadow(copy.candidate.prompt, copy.candidate.version, of)

    def user_came(self) -> None:
        """A user's request enters the engine; shadows make room when it gets crowded."""
        self._in_flight += 1
        if self.runner is not None and self.busy():
            self.runner.pressure()

    def user_left(self) -> None:
        """It has ended."""
        self._in_flight -= 1

    def busy(self) -> bool:
        """Whether as many users' requests are in flight on this server as end shadows."""
        limit = self.service.settings.shadow_busy_requests
        return limit is not None and self._in_flight >= limit

    def tool_calls(self, text: str, copy: Copy) -> tuple[tuple[str, str], ...]:
        """Names and canonical JSON arguments of the tool calls in an answer; none is made."""
        if self._tool_parser is None or not getattr(copy.request, "tools", None):
            return ()
        return self._tool_parser(text, copy.request)

    async def generate(self, job: Job) -> Answer:
        """The candidate's answer to the user's request.

        Raises:
            Unavailable: ``softprompt_lost``, or the candidate can't be made resident.
        """
        source = _source_of(job)
        began = time.perf_counter()
        prompt = await self._input_for(job.candidate, source)
        params = shallow(source.params)
        params.n, params.output_kind = 1, RequestOutputKind.FINAL_ONLY
        params.logprobs = params.prompt_logprobs = None
        params.skip_reading_prefix_cache = False  # as the user's prompt_logprobs may have set it
        room = self.max_model_len - len(prompt["prompt_token_ids"])
        params.max_tokens = min(params.max_tokens or room, room)
        output = await self._run(job, job.candidate, prompt, params, "shadow")
        choice, stats = output.outputs[0], output.metrics
        return Answer(
            text=choice.text,
            token_ids=tuple(choice.token_ids),
            finish_reason=choice.finish_reason,
            ttft_seconds=stats.first_token_latency if stats is not None else None,
            e2e_seconds=time.perf_counter() - began,
            output_tokens=len(choice.token_ids),
            tool_calls=self.tool_calls(choice.text, source.copy),
        )

    async def score(self, job: Job, version: Version, answer: Answer) -> tuple[float, ...]:
        """Log-probability (nats) of each token of ``answer`` under ``version``; one prefill.

        Raises:
            Unavailable: as :meth:`generate`; ``shadow_too_long`` if both don't fit the context.
        """
        source = _source_of(job)
        same = version.digest == source.user.digest
        prompt = dict(source.prompt if same else await self._input_for(version, source))
        ids, told = list(prompt["prompt_token_ids"]), list(answer.token_ids)
        if len(ids) + len(told) + 1 > self.max_model_len:
            msg = "The prompt with the user's answer does not fit the model's context."
            raise Unavailable(msg, code="shadow_too_long", retry_after=None)
        prompt["prompt_token_ids"] = ids + told
        prompt.pop("prompt", None)
        params = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            prompt_logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        if version.kind == "prefix":
            # Its keys and values must be loaded, and the answer's tokens still be computed: blocks
            # that nobody shares.
            prompt["cache_salt"] = salt_for(version.digest, secrets.token_hex(8))
            params.skip_reading_prefix_cache = False
        output = await self._run(job, version, prompt, params, f"score-{version.version}")
        found = output.prompt_logprobs[len(ids) :]
        return tuple(row[token].logprob for row, token in zip(found, told, strict=True))

    async def _input_for(self, version: Version, source: Source) -> dict[str, Any]:
        """The user's input with ``version`` instead of the user's own."""
        copy, user = source.copy, source.user
        if version.text is None and user.text is None:
            prompt = dict(source.prompt)
            visible = list(prompt["prompt_token_ids"][user.virtual_tokens :])
        else:
            request = copy.request.model_copy()
            carry.add_text(request, version)
            inputs = copy.inputs_of(await copy.render(request))
            if len(inputs) != 1:
                msg = "Only a request of one input can be copied for a version with a text."
                raise Unavailable(msg, code="shadow_needs_one_input", retry_after=None)
            prompt = dict(inputs[0])
            visible = list(prompt["prompt_token_ids"])
        prompt.pop("prompt", None)
        prompt["prompt_token_ids"] = [self.placeholder] * version.virtual_tokens + visible
        own = getattr(copy.request, "cache_salt", None)
        salt = salt_for(version.digest, own) if version.learned else own
        prompt.pop("cache_salt", None)
        if salt is not None:
            prompt["cache_salt"] = salt
        if len(prompt["prompt_token_ids"]) >= self.max_model_len:
            msg = f"The request with {version.label} does not fit the model's context."
            raise Unavailable(msg, code="shadow_too_long", retry_after=None)
        return prompt

    async def _run(self, job: Job, version: Version, prompt: Any, params: Any, what: str) -> Any:
        request_id = f"{job.request_id}-{what}"
        residency = self.service.residency
        lease = residency.lease(version)
        try:
            await residency.ensure(version)
            if version.learned:
                params = with_reference(params, Reference.to(version))
            more: dict[str, Any] = {"priority": LEAST_URGENT} if self._prioritised else {}
            if job.span is not None and (headers := job.span.headers()):
                more["trace_headers"] = headers
            async with aclosing(self._generate(prompt, params, request_id, **more)) as outputs:
                final: Any = None
                async for output in outputs:
                    final = output
        finally:
            lease.release()
        if final is None or any(choice.finish_reason == "error" for choice in final.outputs):
            msg = f"The engine ended a shadow of {version.label} with an error."
            raise Unavailable(msg, code="softprompt_lost", retry_after=None)
        return final


def _source_of(job: Job) -> Source:
    source = job.source
    if not isinstance(source, Source):
        msg = f"{type(source).__name__} is no source of a shadow."
        raise TypeError(msg)
    return source


def _wants_json(params: Any) -> bool:
    asked = getattr(params, "structured_outputs", None)
    return asked is not None and (
        getattr(asked, "json", None) is not None or bool(getattr(asked, "json_object", None))
    )
