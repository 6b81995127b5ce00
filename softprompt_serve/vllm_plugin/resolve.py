"""From vLLM's request object to a decision: what is asked for, by whom, and which version answers.

vLLM's handlers check the model's name first, in ``_check_model``, where the whole request is at
hand and may be awaited on. There the version is decided and leased; ``is_base_model``, the check
itself, then only says whether that has happened.
"""

from __future__ import annotations

import logging
import math
import time
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

from softprompt_serve.errors import BadRequest, SoftpromptError
from softprompt_serve.router.ask import Ask, Labels
from softprompt_serve.router.choose import Decision, choose, names_prompt, plan_for, split_model
from softprompt_serve.server.callers import callers_of
from softprompt_serve.server.scope import (
    COHORT_HEADER,
    PIN_HEADER,
    ROUTE_HEADER,
    STICKY_HEADER,
    RequestScope,
    current,
)
from softprompt_serve.vllm_plugin.fields import field

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from softprompt_serve.server.service import Service

logger = logging.getLogger(__name__)

_LOG_EVERY_SECONDS: Final = 60.0

HANDLERS = (
    "openai_serving_chat",
    "openai_serving_completion",
    "openai_serving_responses",
    "anthropic_serving_messages",
)
"""Names, on vLLM's application state, of the handlers that may answer for a prompt."""


class Resolver:
    """Wraps ``_check_model`` of the handlers: decide and lease, once per request."""

    def __init__(self, service: Service, measure: Callable[[Any], Awaitable[int]]) -> None:
        """``measure`` counts a request's visible tokens, where a rule asks for them."""
        self.service = service
        self.measure = measure
        self.callers = callers_of(service)
        self._logged: dict[str, float] = {}  # arms that were passed over, and when that was said

    def install(self, state: Any) -> None:
        """Wrap the handlers that vLLM has made; one that it has not is None."""
        for name in HANDLERS:
            handler = getattr(state, name, None)
            if handler is not None:
                handler._check_model = self._deciding(handler._check_model)  # noqa: SLF001
        messages = getattr(state, "anthropic_serving_messages", None)
        if messages is not None:
            messages.create_messages = _naming_user(messages.create_messages)

    def _deciding(self, check_model: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        @wraps(check_model)
        async def checked(request: Any) -> Any:
            scope = current()
            try:
                await self.decide(request, scope)
            except SoftpromptError as error:
                if error.code == "arm_not_resident":
                    self._log_absence(scope.prompt or "", error.message)
                raise scope.refuse(error) from None
            return await check_model(request)

        return checked

    async def decide(self, request: Any, scope: RequestScope) -> Decision | None:
        """Resolve and lease, once per request; None for a base model.

        Raises:
            BadRequest: ``softprompt_unsupported_route``, ``version_needs_prompt``,
                ``architecture_not_verified`` or ``softprompt_unsupported_field``.
            NotFound: ``model_not_found`` where callers are asked for tokens.
            NotFound, Unavailable: as :func:`~softprompt_serve.router.choose.choose`.
        """
        if scope.decision is not None:
            return scope.decision
        service, model = self.service, request.model
        previous = field(request, "previous_response_id")
        self.callers.check_request(scope, model, previous)
        if not model or not names_prompt(service.traffic, model):
            if scope.pinned is not None:
                msg = f"{PIN_HEADER} pins a version of a prompt, but `{model}` is none."
                raise BadRequest(msg, code="version_needs_prompt", param=PIN_HEADER)
            return None
        scope.prompt = split_model(model)[0]
        check_covered(scope, model)
        tokens: int | None = None
        while tokens is None and _needs_tokens(service, model, scope):
            tokens = await self.measure(request)
        # No await between choosing and leasing: a removal waits for every lease it can see.
        decision = choose(
            service.traffic,
            model,
            ask_of(request, scope, service.labels, tokens),
            resident=service.residency.is_resident,
            absent=service.settings.arm_not_resident,
        )
        service.served.check_kind(decision.version.kind)
        if decision.passed_over is not None:
            arm = f"{scope.prompt}@{decision.passed_over}"
            what = f"`{arm}` is not resident here yet; {decision.version.label} takes its share."
            self._log_absence(arm, what)
        scope.lease = service.residency.lease(decision.version)
        scope.decision = decision
        return decision

    def _log_absence(self, arm: str, what: str) -> None:
        """Say once a minute, for each arm, what becomes of its share; metrics count them all."""
        now = time.monotonic()
        if now - self._logged.get(arm, -math.inf) >= _LOG_EVERY_SECONDS:
            self._logged[arm] = now
            logger.warning("%s", what)


def check_covered(scope: RequestScope, model: str) -> None:
    """Refuse a prompt's name on a route that can't carry one.

    Raises:
        BadRequest: ``softprompt_unsupported_route``.
    """
    if not scope.covered:
        msg = f"`{model}` is a soft prompt, which {scope.path} can't carry."
        raise BadRequest(msg, code="softprompt_unsupported_route", param="model")


def ask_of(request: Any, scope: RequestScope, labels: Labels, tokens: int | None) -> Ask:
    """What the router may know of a request; ``tokens`` are its visible ones, if counted."""
    headers, tools = scope.headers, bool(field(request, "tools"))
    return Ask(
        key=sticky_key(request, scope),
        pinned=scope.pinned,
        cohort=labels.cohort(headers.get(COHORT_HEADER), tools=tools, visible_tokens=tokens),
        route=labels.route(headers.get(ROUTE_HEADER)),
        headers={name: value for name in labels.headers if (value := headers.get(name))},
        tools=tools,
        visible_tokens=tokens,
        long_context=tokens is not None and tokens >= labels.long_context_tokens,
    )


def sticky_key(request: Any, scope: RequestScope) -> str:
    """Who is asking, as far as the request says; a request that doesn't is on its own.

    The header, then OpenAI's fields in the order of how closely they name one user's work.
    """
    if given := scope.headers.get(STICKY_HEADER):
        return given
    for name in ("prompt_cache_key", "safety_identifier", "user"):
        value = field(request, name)
        if isinstance(value, str) and value:
            return value
    if scope.user:
        return scope.user
    conversation = field(request, "conversation")
    if isinstance(conversation, dict):
        conversation = conversation.get("id")
    if isinstance(conversation, str) and conversation:
        return conversation
    return scope.headers.get("x-request-id") or str(request.request_id)


def _needs_tokens(service: Service, model: str, scope: RequestScope) -> bool:
    plan = plan_for(service.traffic, model, scope.pinned)
    return plan is not None and plan.needs_tokens


def _naming_user(create_messages: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    """Anthropic's ``metadata.user_id``, which vLLM drops when it makes a chat request of it."""

    @wraps(create_messages)
    async def created(request: Any, raw_request: Any = None) -> Any:
        metadata = field(request, "metadata")
        if isinstance(metadata, dict) and isinstance(metadata.get("user_id"), str):
            current().user = metadata["user_id"]
        return await create_messages(request, raw_request)

    return created
