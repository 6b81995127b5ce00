"""The request path in the API server: resolve, lease, render, prefill, answer.

vLLM's handlers stay as they are. They share one renderer, one list of models and one engine
client; we wrap those three objects, once, on this server's instances.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

from softprompt_serve.errors import BadRequest, SoftpromptError
from softprompt_serve.registry.snapshot import PRODUCTION
from softprompt_serve.router.choose import Decision, choose, names_prompt
from softprompt_serve.server.scope import NAMES_ONLY, PIN_HEADER, RequestScope, current
from softprompt_serve.vllm_plugin import carry
from softprompt_serve.vllm_plugin.reference import salt_for

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from softprompt_serve.server.service import Service


def decide(service: Service, model: str | None, scope: RequestScope) -> Decision | None:
    """Resolve the model's name and lease the version, once per request; None for a base model.

    Raises:
        BadRequest: ``version_needs_prompt`` if a version is pinned but the model is no prompt;
            ``architecture_not_verified``.
        NotFound, Unavailable: as :func:`~softprompt_serve.router.choose.choose`.
    """
    if scope.decision is not None:
        return scope.decision
    if not model or not names_prompt(service.snapshot, model):
        if scope.pinned is not None:
            msg = f"{PIN_HEADER} pins a version of a prompt, but `{model}` is none."
            raise BadRequest(msg, code="version_needs_prompt", param=PIN_HEADER)
        return None
    # No await between choosing and leasing: a removal waits for every lease it can see.
    decision = choose(service.snapshot, model, scope.pinned)
    service.served.check_kind(decision.version.kind)
    scope.lease = service.residency.lease(decision.version)
    scope.decision = decision
    return decision


class PromptedRenderer:
    """Wraps ``OnlineRenderer``'s render methods: resolve, lease, load, render, prepend."""

    def __init__(self, service: Service, *, placeholder: int, max_model_len: int) -> None:
        """Serve ``service``'s prompts with ``placeholder`` ids in front."""
        self.service = service
        self.placeholder = placeholder
        self.max_model_len = max_model_len

    def install(self, renderer: Any) -> None:
        """Wrap the renderer that all of this server's handlers share."""
        renderer.render_chat = self._wrap(renderer.render_chat, _inputs_of_chat)
        renderer.render_completion = self._wrap(renderer.render_completion, _inputs_of_completion)
        renderer.render_responses = self._wrap(renderer.render_responses, _inputs_of_responses)

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
                decision = decide(self.service, request.model, scope)
                if decision is None:
                    return await render(request, **kwargs)
                await self.service.residency.ensure(decision.version)
                carry.check_request(request, decision)
                if not scope.added:  # a later turn of the same request has the text already
                    carry.add_text(request, decision.version)
                rendered = await render(request, **kwargs)
                for engine_input in inputs_of(rendered):
                    self._prepend(engine_input, request, decision)
                scope.added = True
            except SoftpromptError as error:
                raise scope.refuse(error) from None
            return rendered

        return prompted

    def _prepend(self, engine_input: dict[str, Any], request: Any, decision: Decision) -> None:
        """Put n placeholders before the visible tokens and salt their blocks."""
        version = decision.version
        if version.kind != "soft":
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


def _inputs_of_chat(rendered: Any) -> list[dict[str, Any]]:
    return rendered[1] if isinstance(rendered, tuple) else []


def _inputs_of_completion(rendered: Any) -> list[dict[str, Any]]:
    return rendered if isinstance(rendered, list) else []


def _inputs_of_responses(rendered: Any) -> list[dict[str, Any]]:
    return [rendered.engine_input] if hasattr(rendered, "engine_input") else []


class PromptedModels:
    """Wraps ``OpenAIServingModels``: our names are models, and answers name their version."""

    def __init__(self, service: Service, *, list_versions: bool) -> None:
        """Know ``service``'s prompts."""
        self.service = service
        self.list_versions = list_versions

    def install(self, models: Any) -> None:
        """Wrap the models object that all of this server's handlers share."""
        models.is_base_model = self._knowing(models.is_base_model)
        models.model_name = self._naming(models.model_name)
        models.show_available_models = self._listing(models.show_available_models)

    def _knowing(self, is_base_model: Callable[[str], bool]) -> Callable[[str], bool]:
        def knows(model_name: str) -> bool:
            if not names_prompt(self.service.snapshot, model_name):
                return is_base_model(model_name)
            scope = current()
            if scope.path in NAMES_ONLY:
                return True
            try:
                if not scope.covered:
                    msg = f"`{model_name}` is a soft prompt, which {scope.path} can't carry."
                    raise BadRequest(msg, code="softprompt_unsupported_route", param="model")
                # Decided here, at validation: some handlers name the model before they render.
                decide(self.service, model_name, scope)
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
            base = models.data[0]
            for name in self._names():
                card = base.model_copy(deep=True)
                card.id, card.parent = name, base.id
                models.data.append(card)
            return models

        return listed

    def _names(self) -> list[str]:
        names: list[str] = []
        for prompt in self.service.snapshot.prompts.values():
            if prompt.find(PRODUCTION) is not None:
                names.append(prompt.name)
            selectors = [*prompt.aliases, *(prompt.versions if self.list_versions else ())]
            names.extend(f"{prompt.name}@{selector}" for selector in selectors)
        return names
