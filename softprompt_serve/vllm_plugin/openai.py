"""The request path in the API server: render what was decided, and name who answered.

vLLM's handlers stay as they are. They share one renderer, one list of models and one engine
client; we wrap those three objects, once, on this server's instances. The decision itself is
made in ``resolve.py``, the engine is guarded in ``guard.py``.
"""

from __future__ import annotations

from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any

from softprompt_serve.errors import BadRequest, SoftpromptError, Unavailable
from softprompt_serve.registry.snapshot import PRODUCTION
from softprompt_serve.router.ask import LONG_CONTEXT
from softprompt_serve.router.choose import names_prompt
from softprompt_serve.server.callers import callers_of
from softprompt_serve.server.scope import COHORT_HEADER, NAMES_ONLY, RequestScope, current
from softprompt_serve.vllm_plugin import carry
from softprompt_serve.vllm_plugin.inputs import (
    ids_of,
    inputs_of_chat,
    inputs_of_completion,
    inputs_of_responses,
)
from softprompt_serve.vllm_plugin.reference import salt_for
from softprompt_serve.vllm_plugin.resolve import check_covered
from softprompt_serve.vllm_plugin.tenants import Tenants

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from softprompt_serve.router.choose import Decision
    from softprompt_serve.server.service import Service
    from softprompt_serve.vllm_plugin.resolve import Resolver
    from softprompt_serve.vllm_plugin.shadow import Shadows


class PromptedRenderer:
    """Wraps ``OnlineRenderer``'s render methods: load, render, prepend."""

    def __init__(
        self,
        service: Service,
        resolver: Resolver,
        *,
        placeholder: int,
        max_model_len: int,
        shadows: Shadows | None = None,
    ) -> None:
        """Serve ``service``'s prompts with ``placeholder`` ids in front."""
        self.service = service
        self.resolver = resolver
        self.placeholder = placeholder
        self.max_model_len = max_model_len
        self.shadows = shadows
        self.tenants = Tenants(service.settings.tenant_salt)

    def install(self, renderer: Any) -> None:
        """Wrap the renderer that all of this server's handlers share."""
        renderer.render_chat = self._wrap(renderer.render_chat, inputs_of_chat)
        renderer.render_completion = self._wrap(renderer.render_completion, inputs_of_completion)
        renderer.render_responses = self._wrap(renderer.render_responses, inputs_of_responses)

    def _wrap(
        self,
        render: Callable[..., Awaitable[Any]],
        inputs_of: Callable[[Any], list[dict[str, Any]]],
    ) -> Callable[..., Awaitable[Any]]:
        @wraps(render)
        async def prompted(request: Any, **kwargs: Any) -> Any:
            scope = current()
            try:
                carry.refuse_forged(request, self.service.settings)
                if scope.decision is None and not request.model:
                    return await render(request, **kwargs)  # vLLM's own trial of a template
                self.tenants.salt(request, scope)
                decision = await self.resolver.decide(request, scope)
                if decision is None:
                    return await render(request, **kwargs)
                if not self.service.residency.is_resident(decision.version):
                    with scope.record.waiting():
                        await self.service.residency.ensure(decision.version)
                carry.check_request(request, decision)
                if not scope.added:  # a later turn of the same request has the text already
                    if self.shadows is not None:
                        self.shadows.sample(request, scope, render, inputs_of)
                    if scope.span is not None and scope.span.wants_content:
                        scope.span.content("input", carry.asked_of(request))
                    carry.add_text(request, decision.version)
                rendered = await render(request, **kwargs)
                for engine_input in inputs_of(rendered):
                    self._label(engine_input, scope)
                    self._prepend(engine_input, request, decision)
                scope.added = True
            except SoftpromptError as error:
                raise scope.refuse(error) from None
            return rendered

        return prompted

    def _label(self, engine_input: dict[str, Any], scope: RequestScope) -> None:
        """The derived cohort ``long_context``, once the tokens are counted anyway."""
        decision, least = scope.decision, self.service.labels.long_context_tokens
        if decision is None or scope.headers.get(COHORT_HEADER) is not None:
            return
        if decision.cohort != LONG_CONTEXT and len(ids_of(engine_input)) >= least:
            scope.decision = replace(decision, cohort=LONG_CONTEXT)

    def _prepend(self, engine_input: dict[str, Any], request: Any, decision: Decision) -> None:
        """Put n placeholders before the visible tokens and salt their blocks."""
        version = decision.version
        if not version.learned:
            return
        if engine_input.get("type") != "token":
            msg = (
                f"`{version.label}` can only be added to text, not to images, audio or embeddings."
            )
            raise BadRequest(msg, code="softprompt_text_only", param="messages")
        visible = engine_input["prompt_token_ids"]
        carry.check_length(len(visible), request, version, self.max_model_len)
        engine_input["prompt_token_ids"] = [self.placeholder] * version.virtual_tokens + visible
        engine_input["cache_salt"] = salt_for(version.digest, engine_input.get("cache_salt"))


class PromptedModels:
    """Wraps ``OpenAIServingModels``: our names are models, and answers name their version."""

    def __init__(self, service: Service, *, list_versions: bool) -> None:
        """Know ``service``'s prompts."""
        self.service = service
        self.list_versions = list_versions
        self.callers = callers_of(service)

    def install(self, models: Any) -> None:
        """Wrap the models object that all of this server's handlers share."""
        models.is_base_model = self._knowing(models.is_base_model)
        models.model_name = self._naming(models.model_name)
        models.show_available_models = self._listing(models.show_available_models)

    def _knowing(self, is_base_model: Callable[[str], bool]) -> Callable[[str], bool]:
        def knows(model_name: str) -> bool:
            scope = current()
            try:
                self.callers.check_model(scope, model_name)
            except SoftpromptError as error:
                raise scope.refuse(error) from None
            if not names_prompt(self.service.traffic, model_name):
                return is_base_model(model_name)
            if scope.path in NAMES_ONLY:
                return True
            try:
                check_covered(scope, model_name)
                if scope.decision is None:
                    msg = f"No version of `{model_name}` was chosen for {scope.path}."
                    raise Unavailable(msg, code="softprompt_not_rendered", retry_after=None)
            except SoftpromptError as error:
                raise scope.refuse(error) from None
            return True

        return knows

    def _naming(self, model_name: Callable[..., str]) -> Callable[..., str]:
        def named(lora_request: Any = None) -> str:
            decision = current().decision
            return decision.version.label if decision is not None else model_name(lora_request)

        return named

    def _listing(
        self, show_available_models: Callable[[], Awaitable[Any]]
    ) -> Callable[[], Awaitable[Any]]:
        async def listed() -> Any:
            models = await show_available_models()
            scope, base = current(), models.data[0]
            if not self.callers.sees_base(scope):
                models.data.clear()
            for name in self._names(scope):
                card = base.model_copy(deep=True)
                card.id, card.parent = name, base.id
                models.data.append(card)
            return models

        return listed

    def _names(self, scope: RequestScope) -> list[str]:
        names: list[str] = []
        for prompt in self.service.snapshot.prompts.values():
            if not self.callers.sees(scope, prompt.name):
                continue
            if prompt.find(PRODUCTION) is not None:
                names.append(prompt.name)
            selectors = [*prompt.aliases, *(prompt.versions if self.list_versions else ())]
            names.extend(f"{prompt.name}@{selector}" for selector in selectors)
        return names
