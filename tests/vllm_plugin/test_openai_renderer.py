"""The request path in the API server: resolve, lease, render, guard, answer.

Catalogue, blobs, residency and the wrappers are real; vLLM's renderer, models and engine client
are stand-ins with the methods that are wrapped.
"""

from __future__ import annotations

import asyncio
import shutil
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from starlette.datastructures import Headers
from vllm.sampling_params import RequestOutputKind

from softprompt_serve.artifact import Content
from softprompt_serve.artifact.content import keys_of
from softprompt_serve.artifact.load import Artifact, base, hard
from softprompt_serve.errors import SoftpromptError, Unavailable
from softprompt_serve.release.records import parse_record
from softprompt_serve.server.scope import _CURRENT, PIN_HEADER, RequestScope
from softprompt_serve.testing import (
    BASE_MODEL,
    HIDDEN_SIZE,
    FakeWorkers,
    service_for_tests,
)
from softprompt_serve.vllm_plugin.guard import EngineGuard
from softprompt_serve.vllm_plugin.inputs import counting
from softprompt_serve.vllm_plugin.openai import PromptedModels, PromptedRenderer
from softprompt_serve.vllm_plugin.reference import KEY, Reference, salt_for
from softprompt_serve.vllm_plugin.resolve import Resolver

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from softprompt_serve.registry.snapshot import Version
    from softprompt_serve.server.service import Service

pytestmark = pytest.mark.anyio

PLACEHOLDER = 96
CHAT = "/v1/chat/completions"
ROWS = 3
VISIBLE = [11, 12, 13]


class Renderer:
    """vLLM's ``OnlineRenderer``: visible tokens of whatever it is asked."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.kind = "token"
        self.fails: Exception | None = None

    def _input(self, request: Any) -> dict[str, Any]:
        self.seen.append(request)
        if self.fails is not None:
            raise self.fails
        made: dict[str, Any] = {"type": self.kind, "prompt_token_ids": list(VISIBLE)}
        if request.cache_salt is not None:
            made["cache_salt"] = request.cache_salt
        return made

    async def render_chat(self, request: Any, **_kwargs: Any) -> Any:
        return ["conversation"], [self._input(request)]

    async def render_completion(self, request: Any, **_kwargs: Any) -> Any:
        return [self._input(request), self._input(request)]

    async def render_responses(self, request: Any, **_kwargs: Any) -> Any:
        return SimpleNamespace(engine_input=self._input(request))


class Models:
    """vLLM's ``OpenAIServingModels`` with one base model."""

    def is_base_model(self, model_name: str) -> bool:
        return model_name == BASE_MODEL

    def model_name(self, lora_request: Any = None) -> str:
        return BASE_MODEL

    async def show_available_models(self) -> Any:
        return SimpleNamespace(data=[Card(BASE_MODEL)])


class Handler:
    """vLLM's ``OpenAIServingChat``, as far as it checks the model."""

    def __init__(self, models: Any) -> None:
        self.models = models

    async def _check_model(self, request: Any) -> None:
        assert not request.model or self.models.is_base_model(request.model)


class Card:
    """vLLM's ``ModelCard``."""

    def __init__(self, name: str) -> None:
        self.id = name
        self.parent: str | None = None

    def model_copy(self, *, deep: bool) -> Card:
        assert deep
        return Card(self.id)


class Engine:
    """vLLM's engine client: notes what it is asked, and answers as told."""

    def __init__(self) -> None:
        self.calls: list[tuple[dict[str, Any], Any, str]] = []
        self.closed: list[str] = []
        self.during: Callable[[], None] = lambda: None
        self.scripts: dict[str, list[Any]] = {}

    async def generate(
        self, prompt: Any, sampling_params: Any, request_id: str, **_kwargs: Any
    ) -> AsyncGenerator[Any, None]:
        self.calls.append((prompt, sampling_params, request_id))
        try:
            for output in self.scripts.get(request_id) or [token(1), token(2, "stop")]:
                self.during()
                output.request_id = request_id
                yield output
        finally:
            self.closed.append(request_id)


def output(token_ids: list[int], reason: str | None) -> Any:
    """A delta, as vLLM's ``RequestOutput``."""
    choice = SimpleNamespace(index=0, token_ids=token_ids, text="", finish_reason=reason)
    return SimpleNamespace(
        request_id="",
        outputs=[choice],
        finished=reason is not None,
        metrics=None,
        num_cached_tokens=0,
    )


def token(token_id: int, reason: str | None = None) -> Any:
    return output([token_id], reason)


def error() -> Any:
    """How the engine ends a request whose version a worker did not have."""
    return output([], "error")


class Server:
    """A service with prompts, and vLLM's three objects, wrapped."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.renderer: Any = Renderer()
        self.models: Any = Models()
        self.engine: Any = Engine()
        self.handler: Any = Handler(self.models)
        self.plain = (self.renderer, self.models, self.engine)
        resolver = Resolver(service, counting(self.renderer, service.settings))
        resolver.install(SimpleNamespace(openai_serving_chat=self.handler))
        PromptedRenderer(service, resolver, placeholder=PLACEHOLDER, max_model_len=64).install(
            self.renderer
        )
        PromptedModels(service, list_versions=True).install(self.models)
        EngineGuard(service.residency, placeholder=PLACEHOLDER).install(self.engine)

    @property
    def workers(self) -> FakeWorkers:
        workers = self.service.residency.workers
        assert isinstance(workers, FakeWorkers)
        return workers

    def version(self, selector: str = "v1", prompt: str = "support") -> Version:
        return self.service.find_version(prompt, selector)

    def leases(self, selector: str = "v1") -> int:
        return self.service.residency.leases(self.version(selector).digest)

    def lose(self) -> None:
        """A worker lost the version, in the bank and on the host."""
        self.workers.lose(self.version().digest)

    async def chat(self, request_id: str = "r1", **fields: Any) -> Any:
        """What vLLM's chat handler does: validate, render, sampling parameters, generate."""
        ours = request(**fields)
        await self.handler._check_model(ours)
        _, inputs = await self.renderer.render_chat(ours)
        return self.engine.generate(inputs[0], params(), request_id)


class Request(SimpleNamespace):
    """vLLM's request objects are pydantic's."""

    def model_copy(self) -> Request:
        return Request(**vars(self))


def request(model: str = "support", **fields: Any) -> Any:
    given: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": "Hello"}],
        "cache_salt": None,
        "max_tokens": 5,
        "request_id": "a-request",
    }
    return Request(**(given | fields))


def params(extra: dict[str, Any] | None = None) -> Any:
    return SimpleNamespace(extra_args=extra, output_kind=RequestOutputKind.DELTA)


@contextmanager
def calling(path: str = CHAT, pinned: str | None = None) -> Iterator[RequestScope]:
    """As the middleware does it, around one HTTP request."""
    headers = {} if pinned is None else {PIN_HEADER: pinned}
    scope = RequestScope(path, Headers(headers))
    reset = _CURRENT.set(scope)
    try:
        yield scope
    finally:
        _CURRENT.reset(reset)
        scope.close()


def soft(seed: int = 0, *, text: str | None = None) -> Artifact:
    data = bytes([seed, 0, 0, 0]) * (ROWS * HIDDEN_SIZE)
    return Artifact(Content("soft", text, "float32", (ROWS, HIDDEN_SIZE), data))


async def fill(home: Path) -> None:
    """``support``: v1 and v2 soft, v3 hard, v4 base, v5 soft with a text; v1 is production."""
    service = service_for_tests(home)
    await service.start()
    contents = (
        soft(1),
        soft(2),
        hard("Be brief.", service.served.limits),
        base(),
        soft(3, text="Be brief."),
    )
    for artifact in contents:
        await service.import_version("support", None, artifact, parse_record(None), None)
    await service.set_alias("support", "production", "v1", None)
    await service.close()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that was filled once; each test serves a copy."""
    home = tmp_path_factory.mktemp("filled") / "home"
    asyncio.run(fill(home))
    return home


@pytest.fixture
def serving(tmp_path: Path, filled: Path) -> Callable[[], AbstractAsyncContextManager[Server]]:
    """Start a server on a copy of the filled home."""

    @asynccontextmanager
    async def start() -> AsyncIterator[Server]:
        home = tmp_path / "home"
        shutil.copytree(filled, home)
        service = service_for_tests(home)
        await service.start()
        try:
            yield Server(service)
        finally:
            await service.close()

    return start


Serving = "Callable[[], AbstractAsyncContextManager[Server]]"


async def collect(stream: AsyncGenerator[Any, None]) -> list[int]:
    return [output.outputs[0].token_ids[0] async for output in stream]


async def refused(call: Any, scope: RequestScope) -> SoftpromptError:
    """The error that a call ends with, which must be the request's answer too."""
    with pytest.raises(SoftpromptError) as caught:
        await call
    assert scope.error is caught.value
    return caught.value


async def test_vllms_own_trial_of_a_template_does_not_spoil_a_pinned_request(
    serving: Serving,
) -> None:
    async with serving() as server:
        with calling(pinned="v2") as scope:
            _, (tried,) = await server.renderer.render_chat(request(model=None))
            assert tried["prompt_token_ids"] == list(VISIBLE)
            assert scope.error is None
            await collect(await server.chat())
            assert scope.decision is not None
            assert scope.decision.version.version == "v2"


async def test_a_pin_without_a_model_is_refused(serving: Serving) -> None:
    async with serving() as server:
        with calling(pinned="v2") as scope:
            error = await refused(server.chat(model=None), scope)
            assert error.code == "version_needs_prompt"


async def test_a_soft_version_puts_its_placeholders_first_and_salts_the_blocks(
    serving: Serving,
) -> None:
    async with serving() as server:
        with calling():
            await collect(await server.chat())
        prompt, _, _ = server.engine.calls[0]
        assert prompt["prompt_token_ids"] == [PLACEHOLDER] * ROWS + VISIBLE
        assert prompt["cache_salt"] == salt_for(server.version().digest, None)


async def test_the_handler_gets_placeholders_and_salt_from_the_renderer(serving: Serving) -> None:
    async with serving() as server:
        with calling():
            _, (rendered,) = await server.renderer.render_chat(request())
        assert rendered["prompt_token_ids"] == [PLACEHOLDER] * ROWS + VISIBLE
        assert rendered.get("cache_salt") == salt_for(server.version().digest, None)


async def test_the_engine_gets_the_reference_that_workers_act_on(serving: Serving) -> None:
    async with serving() as server:
        with calling():
            await collect(await server.chat())
        _, sampling, _ = server.engine.calls[0]
        assert sampling.extra_args == {KEY: Reference.to(server.version()).to_extra_args()}


async def test_where_keys_and_values_are_kept_they_are_loaded_instead(serving: Serving) -> None:
    async with serving() as server:
        kept = keys_of(server.version().digest)
        server.workers.slots.place(kept, 1)
        await server.service.residency.refresh()
        with calling():
            _, inputs = await server.renderer.render_chat(request(cache_salt="mine"))
            await collect(server.engine.generate(inputs[0], params(), "r1"))
        prompt, sampling, _ = server.engine.calls[0]
        assert sampling.extra_args == {KEY: Reference(kept, ROWS, "keys").to_extra_args()}
        # What is loaded has blocks of its own, and each user's are still apart.
        assert prompt["cache_salt"] == salt_for(kept, "mine")
        assert inputs[0]["cache_salt"] == salt_for(server.version().digest, "mine")


async def test_kept_keys_that_a_worker_lost_are_computed_instead(serving: Serving) -> None:
    async with serving() as server:
        kept = keys_of(server.version().digest)
        server.workers.slots.place(kept, 1)
        await server.service.residency.refresh()
        server.plain[2].scripts = {"r1": [error()]}
        server.workers.lose(kept)
        with calling():
            assert await collect(await server.chat()) == [1, 2]
        ways = [sampling.extra_args[KEY]["way"] for _, sampling, _ in server.engine.calls]
        assert ways == ["keys", "rows"]


async def test_a_users_own_salt_and_arguments_stay_in_effect(serving: Serving) -> None:
    async with serving() as server:
        with calling():
            _, inputs = await server.renderer.render_chat(request(cache_salt="mine"))
            given = params({"theirs": 1})
            await collect(server.engine.generate(inputs[0], given, "r1"))
        prompt, sampling, _ = server.engine.calls[0]
        assert prompt["cache_salt"] == salt_for(server.version().digest, "mine")
        assert sampling.extra_args["theirs"] == 1


async def test_the_handlers_own_sampling_parameters_are_not_changed(serving: Serving) -> None:
    async with serving() as server:
        with calling():
            _, inputs = await server.renderer.render_chat(request())
            given = params()
            await collect(server.engine.generate(inputs[0], given, "r1"))
            await collect(server.engine.generate(inputs[0], given, "r2"))  # its next turn
        assert given.extra_args is None
        assert len(server.engine.calls) == 2


async def test_every_prompt_of_a_completion_gets_the_version(serving: Serving) -> None:
    async with serving() as server:
        with calling("/v1/completions"):
            inputs = await server.renderer.render_completion(request())
        assert [len(made["prompt_token_ids"]) for made in inputs] == [ROWS + 3] * 2
        assert all(made["cache_salt"].startswith("sp:") for made in inputs)


async def test_a_response_gets_the_version(serving: Serving) -> None:
    async with serving() as server:
        with calling("/v1/responses"):
            made = (await server.renderer.render_responses(request())).engine_input
        assert made["prompt_token_ids"] == [PLACEHOLDER] * ROWS + VISIBLE


async def test_the_base_model_is_served_as_it_was(serving: Serving) -> None:
    async with serving() as server:
        with calling() as scope:
            assert await collect(await server.chat(model=BASE_MODEL)) == [1, 2]
            assert scope.decision is None
        prompt, sampling, _ = server.engine.calls[0]
        assert prompt == {"type": "token", "prompt_token_ids": VISIBLE}
        assert sampling.extra_args is None


async def test_a_request_without_a_model_is_the_base_models(serving: Serving) -> None:
    async with serving() as server:
        with calling() as scope:
            await server.renderer.render_chat(request(model=None))
            assert scope.decision is None


async def test_a_hard_version_adds_its_text_and_nothing_else(serving: Serving) -> None:
    async with serving() as server:
        with calling() as scope:
            await collect(await server.chat(model="support@v3"))
            assert scope.decision is not None
        assert server.plain[0].seen[0].messages[0] == {"role": "system", "content": "Be brief."}
        prompt, sampling, _ = server.engine.calls[0]
        assert prompt == {"type": "token", "prompt_token_ids": VISIBLE}
        assert sampling.extra_args is None


async def test_a_soft_version_with_a_text_adds_both(serving: Serving) -> None:
    async with serving() as server:
        with calling():
            await collect(await server.chat(model="support@v5"))
        assert server.plain[0].seen[0].messages[0] == {"role": "system", "content": "Be brief."}
        assert server.engine.calls[0][0]["prompt_token_ids"][:ROWS] == [PLACEHOLDER] * ROWS


async def test_a_text_is_added_once_when_a_handler_renders_again(serving: Serving) -> None:
    async with serving() as server:
        ours = request(model="support@v3")
        with calling():
            await server.renderer.render_chat(ours)
            await server.renderer.render_chat(ours)
        assert [message["role"] for message in ours.messages] == ["system", "user"]


async def test_a_base_version_adds_nothing(serving: Serving) -> None:
    async with serving() as server:
        with calling() as scope:
            await collect(await server.chat(model="support@v4"))
            assert scope.decision is not None
        assert server.engine.calls[0][0] == {"type": "token", "prompt_token_ids": VISIBLE}


@pytest.mark.parametrize(
    ("model", "pinned", "answered"),
    [
        ("support", None, "support@v1"),
        ("support@v2", None, "support@v2"),
        ("support@production", None, "support@v1"),
        ("support", "v2", "support@v2"),
    ],
)
async def test_the_answer_names_the_version(
    serving: Serving, model: str, pinned: str | None, answered: str
) -> None:
    async with serving() as server:
        with calling(pinned=pinned):
            await collect(await server.chat(model=model))
            assert server.models.model_name() == answered


async def test_a_base_answer_names_the_base_model(serving: Serving) -> None:
    async with serving() as server:
        with calling():
            assert server.models.model_name() == BASE_MODEL


async def test_one_request_stays_on_one_version_through_a_swap(serving: Serving) -> None:
    async with serving() as server:
        with calling():
            await server.handler._check_model(request())
            await server.service.set_alias("support", "production", "v2", None)
            await collect(await server.chat())
            assert server.models.model_name() == "support@v1"
        with calling():
            await collect(await server.chat())
            assert server.models.model_name() == "support@v2"


async def test_a_version_is_leased_from_its_choice_to_the_last_token(serving: Serving) -> None:
    async with serving() as server:
        counts: list[int] = []
        server.plain[2].during = lambda: counts.append(server.leases())
        with calling():
            await server.handler._check_model(request())
            assert server.leases() == 1
            await collect(await server.chat())
        assert min(counts) >= 1
        assert server.leases() == 0


async def test_a_background_stream_keeps_its_lease_after_the_response(serving: Serving) -> None:
    async with serving() as server:
        with calling():
            stream = await server.chat()
            first = await anext(stream)
        assert (first.outputs[0].token_ids, server.leases()) == ([1], 1)
        assert await collect(stream) == [2]
        assert server.leases() == 0


async def test_a_client_that_goes_away_ends_the_request_and_then_the_lease(
    serving: Serving,
) -> None:
    async with serving() as server:
        with calling():
            stream = await server.chat()
            await anext(stream)
            await stream.aclose()
        assert server.plain[2].closed == ["r1"]
        assert server.leases() == 0


async def test_a_cancelled_request_ends_its_lease(serving: Serving) -> None:
    async with serving() as server:
        waiting = asyncio.Event()

        async def forever(*_args: Any, **_kwargs: Any) -> AsyncGenerator[Any, None]:
            waiting.set()
            await asyncio.Event().wait()
            yield

        engine: Any = SimpleNamespace(generate=forever)
        EngineGuard(server.service.residency, placeholder=PLACEHOLDER).install(engine)
        with calling():
            _, inputs = await server.renderer.render_chat(request())
            task = asyncio.create_task(collect(engine.generate(inputs[0], params(), "r1")))
            await waiting.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert server.leases() == 0


async def test_a_version_that_is_not_resident_is_loaded_first(serving: Serving) -> None:
    async with serving() as server:
        server.lose()
        await server.service.residency.refresh()
        with calling():
            assert await collect(await server.chat()) == [1, 2]
        assert server.workers.slots.find(server.version().digest) is not None


async def test_a_version_that_can_not_be_loaded_is_unavailable(serving: Serving) -> None:
    async with serving() as server:
        server.lose()
        await server.service.residency.refresh()
        server.service.store.delete(server.version().digest)
        with calling() as scope:
            problem = await refused(server.chat(), scope)
        assert (problem.status, problem.code) == (503, "blob_missing")
        assert server.engine.calls == []
        assert server.leases() == 0


@pytest.mark.parametrize(
    ("model", "pinned", "code"),
    [
        ("support@v9", None, "version_not_found"),
        ("support@", None, "version_not_found"),
        ("support", "v9", "version_not_found"),
        ("support@v1", "v2", "version_not_found"),
    ],
)
async def test_an_unknown_version_of_a_known_prompt_is_not_found(
    serving: Serving, model: str, pinned: str | None, code: str
) -> None:
    async with serving() as server:
        with calling(pinned=pinned) as scope:
            problem = await refused(server.chat(model=model), scope)
        assert (problem.status, problem.code) == (404, code)


async def test_an_unknown_name_is_vllms_to_refuse(serving: Serving) -> None:
    async with serving() as server:
        with calling() as scope:
            assert not server.models.is_base_model("sales")
            assert scope.error is None


async def test_an_unloaded_version_is_unavailable(serving: Serving) -> None:
    async with serving() as server:
        await server.service.set_resident("support", "v2", None, wanted=False)
        with calling() as scope:
            problem = await refused(server.chat(model="support@v2"), scope)
        assert (problem.status, problem.code) == (503, "version_unloaded")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"cache_salt": "sp:mine"}, "reserved_cache_salt"),
        ({"vllm_xargs": {KEY: {"digest": "d", "rows": 1}}}, "reserved_vllm_xargs"),
        ({"prompt_embeds": b"x"}, "raw_prompt_embeds_disabled"),
        ({"echo": True}, "softprompt_unsupported_field"),
        ({"max_tokens": 59}, "context_length_exceeded"),
    ],
)
async def test_what_can_not_be_carried_is_refused(
    serving: Serving, fields: dict[str, Any], code: str
) -> None:
    async with serving() as server:
        with calling() as scope:
            problem = await refused(server.chat(**fields), scope)
        assert (problem.status, problem.code) == (400, code)
        assert server.leases() == 0


@pytest.mark.parametrize("fields", [{"cache_salt": "sp:mine"}, {"vllm_xargs": {KEY: 1}}])
async def test_forging_is_refused_on_the_base_model_too(
    serving: Serving, fields: dict[str, Any]
) -> None:
    async with serving() as server:
        with calling() as scope:
            await refused(server.chat(model=BASE_MODEL, **fields), scope)


async def test_images_can_not_carry_a_soft_prompt(serving: Serving) -> None:
    async with serving() as server:
        server.plain[0].kind = "multimodal"
        with calling() as scope:
            problem = await refused(server.chat(), scope)
        assert problem.code == "softprompt_text_only"


async def test_an_error_of_vllms_own_rendering_stays_its_own(serving: Serving) -> None:
    async with serving() as server:
        server.plain[0].fails = ValueError("no template")
        with calling() as scope:
            with pytest.raises(ValueError, match="no template"):
                await server.chat()
            assert scope.error is None
        assert server.leases() == 0


@pytest.mark.parametrize("path", ["/v1/chat/completions/batch", "/v1/embeddings", "/pooling", ""])
async def test_a_route_that_is_not_known_to_carry_prompts_is_refused(
    serving: Serving, path: str
) -> None:
    async with serving() as server:
        with calling(path) as scope, pytest.raises(SoftpromptError) as caught:
            server.models.is_base_model("support")
        assert scope.error is caught.value
        assert caught.value.code == "softprompt_unsupported_route"


@pytest.mark.parametrize("path", ["/tokenize", "/v1/models"])
async def test_a_route_that_answers_no_text_may_name_a_prompt(serving: Serving, path: str) -> None:
    async with serving() as server:
        with calling(path) as scope:
            assert server.models.is_base_model("support")
            assert scope.decision is None


async def test_a_handler_that_did_not_render_is_stopped_before_the_engine(
    serving: Serving,
) -> None:
    async with serving() as server:
        with calling() as scope:
            await server.handler._check_model(request())
            with pytest.raises(Unavailable) as caught:
                server.engine.generate({"prompt_token_ids": VISIBLE}, params(), "r1")
            assert scope.error is caught.value
        assert caught.value.code == "softprompt_not_rendered"
        assert server.plain[2].calls == []


async def test_a_text_that_was_not_added_is_missed_before_the_engine(serving: Serving) -> None:
    async with serving() as server:
        with calling(pinned="v3"):
            await server.handler._check_model(request())
            with pytest.raises(Unavailable):
                server.engine.generate({"prompt_token_ids": VISIBLE}, params(), "r1")


@pytest.mark.parametrize(
    "prompt",
    [
        "text",
        {"prompt_token_ids": VISIBLE},
        {"prompt_token_ids": [PLACEHOLDER] * ROWS + VISIBLE},
        {"prompt_token_ids": VISIBLE, "cache_salt": "sp:" + "ab" * 16},
    ],
)
async def test_a_rendered_prompt_that_was_swapped_is_stopped_before_the_engine(
    serving: Serving, prompt: Any
) -> None:
    async with serving() as server:
        with calling() as scope:
            await server.renderer.render_chat(request())
            with pytest.raises(SoftpromptError) as caught:
                server.engine.generate(prompt, params(), "r1")
            assert scope.error is caught.value
        assert caught.value.code == "softprompt_mismatch"
        assert server.plain[2].calls == []


async def test_a_reserved_salt_of_a_base_request_is_stopped_before_the_engine(
    serving: Serving,
) -> None:
    async with serving() as server:
        forged = {"prompt_token_ids": VISIBLE, "cache_salt": "sp:" + "ab" * 16}
        with calling(), pytest.raises(SoftpromptError) as caught:
            server.engine.generate(forged, params(), "r1")
        assert caught.value.code == "reserved_cache_salt"


async def test_a_reference_from_outside_is_stopped_before_the_engine(serving: Serving) -> None:
    async with serving() as server:
        forged = params({KEY: {"digest": "d", "rows": 1}})
        with calling(), pytest.raises(SoftpromptError) as caught:
            server.engine.generate({"prompt_token_ids": VISIBLE}, forged, "r1")
        assert caught.value.code == "reserved_vllm_xargs"


async def test_a_lost_version_is_loaded_and_the_request_started_once_more(
    serving: Serving,
) -> None:
    async with serving() as server:
        engine = server.plain[2]
        engine.scripts = {"r1": [error()]}
        server.lose()
        with calling() as scope:
            outputs = [output async for output in await server.chat()]
            assert scope.error is None
        assert [output.outputs[0].token_ids for output in outputs] == [[1], [2]]
        assert {output.request_id for output in outputs} == {"r1"}
        assert [request_id for _, _, request_id in engine.calls] == ["r1", "r1-r1"]
        assert engine.closed == ["r1", "r1-r1"]
        assert server.leases() == 0


async def test_of_two_requests_that_lost_a_version_both_are_answered(serving: Serving) -> None:
    async with serving() as server:
        server.plain[2].scripts = {"r1": [error()], "r2": [error()]}
        server.lose()
        with calling():
            first, second = await server.chat("r1"), await server.chat("r2")
            assert await asyncio.gather(collect(first), collect(second)) == [[1, 2], [1, 2]]


async def test_a_version_that_is_lost_again_is_unavailable(serving: Serving) -> None:
    async with serving() as server:
        engine = server.plain[2]
        engine.scripts = {"r1": [error()], "r1-r1": [error()]}
        engine.during = server.lose
        with calling() as scope:
            problem = await refused(collect(await server.chat()), scope)
        assert (problem.status, problem.code) == (503, "softprompt_lost")
        assert len(engine.calls) == 2
        assert server.leases() == 0


async def test_a_lost_version_that_can_not_be_loaded_is_unavailable(serving: Serving) -> None:
    async with serving() as server:
        server.plain[2].scripts = {"r1": [error()]}
        server.lose()
        server.service.store.delete(server.version().digest)
        with calling() as scope:
            problem = await refused(collect(await server.chat()), scope)
        assert (problem.status, problem.code) == (503, "softprompt_lost")


async def test_an_error_that_stays_is_vllms_to_report(serving: Serving) -> None:
    async with serving() as server:
        server.plain[2].scripts = {"r1": [error()], "r1-r1": [error()]}
        with calling() as scope:
            outputs = [output async for output in await server.chat()]
            assert scope.error is None
        assert [output.outputs[0].finish_reason for output in outputs] == ["error"]


async def test_a_version_that_is_lost_in_an_answer_ends_it_and_is_loaded_again(
    serving: Serving,
) -> None:
    async with serving() as server:
        engine = server.plain[2]
        engine.scripts = {"r1": [token(1), error()]}
        with calling() as scope:
            outputs = await server.chat()
            first = await anext(outputs)
            server.lose()
            problem = await refused(collect(outputs), scope)
        assert first.outputs[0].token_ids == [1]
        assert (problem.status, problem.code) == (503, "softprompt_lost")
        assert server.service.residency.is_resident(server.version())
        assert len(engine.calls) == 1
        assert server.leases() == 0


async def test_an_answer_in_one_piece_that_failed_late_is_started_once_more(
    serving: Serving,
) -> None:
    async with serving() as server:
        late = error()
        late.outputs[0].token_ids = [7]
        server.plain[2].scripts = {"r1": [late]}
        server.lose()
        with calling():
            assert await collect(await server.chat()) == [1, 2]


async def test_a_request_that_has_answered_is_never_started_again(serving: Serving) -> None:
    async with serving() as server:
        engine = server.plain[2]
        engine.scripts = {"r1": [token(1), error()]}
        with calling():
            outputs = [output async for output in await server.chat()]
        assert [output.outputs[0].finish_reason for output in outputs] == [None, "error"]
        assert len(engine.calls) == 1


async def test_the_list_of_models_has_prompts_aliases_and_versions(serving: Serving) -> None:
    async with serving() as server:
        listed = await server.models.show_available_models()
        assert [card.id for card in listed.data] == [
            BASE_MODEL,
            "support",
            "support@production",
            *(f"support@v{i}" for i in range(1, 6)),
        ]
        assert {card.parent for card in listed.data[1:]} == {BASE_MODEL}


async def test_versions_are_left_out_of_the_list_where_a_setting_says_so(
    serving: Serving,
) -> None:
    async with serving() as server:
        models: Any = Models()
        PromptedModels(server.service, list_versions=False).install(models)
        listed = await models.show_available_models()
        assert [card.id for card in listed.data] == [BASE_MODEL, "support", "support@production"]


async def test_a_prompt_without_production_is_not_listed_by_its_own_name(
    serving: Serving,
) -> None:
    async with serving() as server:
        await server.service.remove_alias("support", "production", None)
        listed = await server.models.show_available_models()
        assert "support" not in [card.id for card in listed.data]


async def test_every_name_in_the_list_can_be_asked_for(serving: Serving) -> None:
    async with serving() as server:
        listed = await server.models.show_available_models()
        for card in listed.data:
            with calling():
                assert await collect(await server.chat(model=card.id)) == [1, 2]
