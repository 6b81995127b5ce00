"""The path of one request through our code, as steps that can be done alone, without an engine."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from prometheus_client import CollectorRegistry
from stand_ins import OUTPUTS, Engine, Handler, Models, Renderer
from starlette.datastructures import Headers
from vllm import SamplingParams
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.sampling_params import RequestOutputKind

from softprompt_serve.artifact import Content
from softprompt_serve.artifact.load import Artifact
from softprompt_serve.bank.tensors import Bank
from softprompt_serve.server import scope as request_scope
from softprompt_serve.server.auth import Doorkeeper
from softprompt_serve.server.callers import CallerGate, callers_of
from softprompt_serve.server.door import Door
from softprompt_serve.server.record import Record
from softprompt_serve.server.scope import RequestScope, ScopeMiddleware
from softprompt_serve.telemetry import request_log
from softprompt_serve.telemetry.channel import Events
from softprompt_serve.telemetry.metrics import Metrics
from softprompt_serve.telemetry.spans import Describer
from softprompt_serve.telemetry.tracing import Tracing
from softprompt_serve.testing import BASE_MODEL
from softprompt_serve.vllm_plugin.fail_closed import patch_engine_core
from softprompt_serve.vllm_plugin.guard import EngineGuard
from softprompt_serve.vllm_plugin.inputs import counting
from softprompt_serve.vllm_plugin.openai import PromptedModels, PromptedRenderer
from softprompt_serve.vllm_plugin.overlay import Overlay
from softprompt_serve.vllm_plugin.reference import Reference, with_reference
from softprompt_serve.vllm_plugin.resolve import Resolver
from softprompt_serve.vllm_plugin.shadow import Shadows

if TYPE_CHECKING:
    from softprompt_serve.server.service import Service

ROWS = 20
PLACEHOLDER = 96
HIDDEN_SIZE = 576
PATH = "/v1/chat/completions"
TEXT_CHARS = 2000
SOFT, HARD, PLAIN = MODELS = ("soft", "hard", BASE_MODEL)

Work = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the path: what does it once, and what of that is not ours."""

    name: str
    work: Work
    without: Work | None = None


class Nowhere(SpanProcessor):
    """Takes spans and forgets them, as a full queue does."""


class Lines(logging.Handler):
    """Formats each line, as a handler does before it writes."""

    def emit(self, record: logging.LogRecord) -> None:
        self.format(record)


class Server:
    """What a server is made of, with the engine left out."""

    def __init__(self, service: Service, token: str) -> None:
        self.service = service
        self.headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        self.renderer, self.models, self.engine = Renderer(), Models(), Engine()
        self.handler = Handler(self.models)
        self.plain = (self.renderer.render_chat, self.engine.generate)
        self.door = Door(Doorkeeper(lambda: "x" * 40, None, lambda: service.snapshot.keyring))
        shadows = Shadows(
            service, self.engine, placeholder=PLACEHOLDER, max_model_len=4096, prioritised=False
        )
        self.resolver = Resolver(service, counting(self.renderer, service.settings))
        self.resolver.install(SimpleNamespace(openai_serving_chat=self.handler))
        wrapper = PromptedRenderer(
            service,
            self.resolver,
            placeholder=PLACEHOLDER,
            max_model_len=4096,
            shadows=shadows,
        )
        wrapper.install(self.renderer)
        callers = callers_of(service)
        PromptedModels(service, list_versions=True).install(self.models)
        EngineGuard(
            service.residency, placeholder=PLACEHOLDER, shadows=shadows, callers=callers
        ).install(self.engine)
        provider = TracerProvider()
        provider.add_span_processor(Nowhere())
        self.tracing = Tracing(provider, Describer("owner/model"))
        self.metrics = Events()
        build = {"version": "0", "vllm": "0", "base_revision": ""}
        Metrics(
            CollectorRegistry(), base_model="m", prices=service.prices, arms=100, build=build
        ).listen_to(self.metrics)

    def scope(self) -> dict[str, Any]:
        """ASGI's, of one call."""
        headers = [(name.encode(), value.encode()) for name, value in self.headers.items()]
        client = ("127.0.0.1", 40_000)
        return {
            "type": "http",
            "method": "POST",
            "path": PATH,
            "headers": headers,
            "client": client,
        }

    def request(self, model: str) -> ChatCompletionRequest:
        """As vLLM makes it of a body."""
        messages = [{"role": "user", "content": "Hello"}]
        return ChatCompletionRequest(model=model, messages=messages, max_tokens=OUTPUTS)

    async def began(self, model: str) -> RequestScope:
        """A request that was let in and resolved."""
        state = RequestScope(PATH, Headers(self.headers))
        state.caller = self.door.admit(self.headers["authorization"].split()[1], self.scope())
        request_scope._CURRENT.set(state)  # noqa: SLF001 - as the middleware does
        await self.handler._check_model(self.request(model))  # noqa: SLF001
        return state


async def steps(server: Server, model: str) -> list[Step]:
    """The path of one request, in the order of the way."""
    state, request = await server.began(model), server.request(model)
    asgi = server.scope()
    params = SamplingParams(max_tokens=OUTPUTS, output_kind=RequestOutputKind.DELTA)
    (render, generate), resolver = server.plain, server.resolver
    text = list(request.messages)

    async def answered(_scope: Any, _receive: Any, send: Any) -> None:
        request_scope.current().decision = state.decision
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def nothing(*_given: Any) -> None: ...

    middleware = ScopeMiddleware(answered)
    gate = CallerGate(nothing, server.door)

    async def resolve() -> None:
        fresh = RequestScope(PATH, state.headers)
        fresh.caller = state.caller
        await resolver.decide(request, fresh)
        fresh.close()

    async def seam() -> Any:
        request.messages, state.added = list(text), False
        return await server.renderer.render_chat(request)

    async def no_seam() -> Any:
        request.messages, state.added = list(text), False
        return await render(request)

    (engine_input,) = (await seam())[1]

    async def guard() -> None:
        state.added, state.record = True, Record()
        async for _ in server.engine.generate(engine_input, params, "r-1"):
            pass

    async def no_guard() -> None:
        state.added, state.record = True, Record()
        async for _ in generate(engine_input, params, "r-1"):
            pass

    await guard()
    return [
        Step(
            "scope, response headers",
            lambda: middleware(asgi, nothing, nothing),
            lambda: answered(asgi, nothing, nothing),
        ),
        Step("door: token, caller", lambda: gate(asgi, nothing, nothing)),
        Step("resolve and lease", resolve),
        Step("render seam: checks, text or placeholders, salt", seam, no_seam),
        Step(f"guard, reference, {OUTPUTS} outputs followed", guard, no_guard),
        *_engine_side(state, engine_input, params),
        *_told(server, state),
    ]


def _engine_side(state: RequestScope, engine_input: dict[str, Any], params: Any) -> list[Step]:
    """In the engine's process and in the worker's."""
    decision = state.decision
    version = None if decision is None else decision.version

    class Core:
        vllm_config = None

        def preprocess_add_request(self, given: Any) -> Any:
            return given

    plain, core = Core.preprocess_add_request, Core()
    patch_engine_core(Core, lambda _: PLACEHOLDER)
    soft = version is not None and version.kind == "soft"
    sent = with_reference(params, Reference.to(version)) if soft and version is not None else params
    given = SimpleNamespace(
        sampling_params=sent,
        cache_salt=engine_input.get("cache_salt"),
        prompt_token_ids=engine_input["prompt_token_ids"],
    )
    bank = Bank(
        ROWS * 4, HIDDEN_SIZE, dtype=torch.float32, device=torch.device("cpu"), host_bytes=0
    )
    overlay = Overlay()
    overlay.bank = bank
    if soft:
        bank.load(soft_artifact().content)

    async def check() -> None:
        core.preprocess_add_request(given)

    async def no_check() -> None:
        plain(core, given)

    async def hold() -> None:
        overlay.rows_for("r-1", sent, 0)
        overlay.release("r-1")

    return [Step("engine: reference and salt", check, no_check), Step("worker: hold rows", hold)]


def _told(server: Server, state: RequestScope) -> list[Step]:
    """After the last byte."""
    decision, record = state.decision, state.record
    begun = server.tracing.begin(state.headers, "POST", PATH)
    event = (
        None if decision is None else record.event(decision, 200, None, path=PATH, trace=begun.ref)
    )

    async def make() -> None:
        if decision is not None:
            record.event(decision, 200, None, path=PATH, trace=begun.ref)

    async def count() -> None:
        if event is not None:
            server.metrics.emit(event)

    async def remember() -> None:
        if event is not None:
            server.service.events.emit(event)

    async def span() -> None:
        span = server.tracing.begin(state.headers, "POST", PATH)
        request_scope.within({"headers": []}, span.headers())
        span.end(event, status=200)

    async def line() -> None:
        if event is not None:
            request_log.ended(event)

    return [
        Step("event", make),
        Step("metrics", count),
        Step("tally, remember for feedback", remember),
        Step("span (where tracing is on)", span),
        Step("line in the log (where asked for)", line),
    ]


def soft_artifact() -> Artifact:
    data = torch.full((ROWS, HIDDEN_SIZE), 0.01).numpy().tobytes()
    return Artifact(Content("soft", None, "float32", (ROWS, HIDDEN_SIZE), data))
