"""Which key may use which prompt: over HTTP, with stand-ins for vLLM's handlers behind the gate."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse
from vllm_plugin.test_openai_renderer import Models

from softprompt_serve.access.scopes import ADMIN, SCOPES, Scope
from softprompt_serve.errors import BadRequest, NotFound
from softprompt_serve.registry.access import AccessTokens
from softprompt_serve.release.records import parse_record
from softprompt_serve.server.callers import Callers
from softprompt_serve.server.scope import RequestScope
from softprompt_serve.server.service import Service
from softprompt_serve.server.upload import read_artifact
from softprompt_serve.testing import (
    ADMIN_TOKEN,
    BASE_MODEL,
    app_for_tests,
    service_for_tests,
    settings_for_tests,
)
from softprompt_serve.vllm_plugin.guard import EngineGuard
from softprompt_serve.vllm_plugin.inputs import counting
from softprompt_serve.vllm_plugin.openai import PromptedModels, PromptedRenderer
from softprompt_serve.vllm_plugin.resolve import Resolver

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
Serve = Callable[..., AbstractAsyncContextManager["Callee"]]


class Renderer:
    async def render_chat(self, request: Any, **_kwargs: Any) -> Any:
        made = {"type": "token", "prompt_token_ids": [1, 2, 3]}
        return [], [
            made if request.cache_salt is None else made | {"cache_salt": request.cache_salt}
        ]

    render_completion = render_responses = render_chat


class Handler:
    """vLLM's check of a model's name."""

    def __init__(self, models: Any) -> None:
        self.models = models

    async def _check_model(self, request: Any) -> Any:
        if not request.model or self.models.is_base_model(request.model):
            return None
        return JSONResponse({"error": {"message": "vLLM's own words"}}, 404)


class Engine:
    def __init__(self) -> None:
        self.salts: list[str | None] = []

    async def generate(self, prompt: Any, *_args: Any, **_kwargs: Any) -> AsyncGenerator[Any, None]:
        self.salts.append(prompt.get("cache_salt"))
        choice = SimpleNamespace(index=0, token_ids=[7], text="", finish_reason="stop")
        yield SimpleNamespace(
            request_id="", outputs=[choice], finished=True, metrics=None, num_cached_tokens=0
        )


class Callee:
    """A server, its admin, and a client that shows a key."""

    def __init__(self, service: Service, app: FastAPI, engine: Engine, http: Any) -> None:
        self.service, self.app, self.engine, self.http = service, app, engine, http

    async def key(self, name: str, *prompts: str, scope: Scope = "caller") -> str:
        tokens = AccessTokens(self.service.catalogue.database)
        _, minted = tokens.create(name, (scope,), prompts)
        await self.service.feed.refresh()
        return minted.text

    async def ask(
        self, model: str | None, key: str | None = None, path: str = CHAT, **headers: str
    ) -> httpx.Response:
        if key is not None:
            headers = {"authorization": f"Bearer {key}", **headers}
        answer: httpx.Response = await self.http.post(path, json={"model": model}, headers=headers)
        return answer

    async def models(self, key: str) -> list[str]:
        answer = await self.http.get("/v1/models", headers={"authorization": f"Bearer {key}"})
        found: list[str] = answer.json()
        return found


def wired(service: Service, app: FastAPI, engine: Any) -> None:
    """vLLM's objects with ours round them, and routes as its handlers are."""
    renderer: Any = Renderer()
    models: Any = Models()
    deciding: Any = Handler(models)
    naive = Handler(models)  # batch: its check is not wrapped
    resolver = Resolver(service, counting(renderer, service.settings))
    resolver.install(SimpleNamespace(openai_serving_chat=deciding))
    PromptedRenderer(service, resolver, placeholder=9, max_model_len=64).install(renderer)
    PromptedModels(service, list_versions=True).install(models)
    callers = Callers(
        lambda: service.snapshot, service.served.names, service.settings.caller_access == "tokens"
    )
    EngineGuard(service.residency, placeholder=9, callers=callers).install(engine)

    async def answer(raw: Request, handler: Any, *, render: bool = True) -> Any:
        body = await raw.json()
        asked = SimpleNamespace(
            model=body.get("model"), messages=[], cache_salt=None, max_tokens=1, request_id="r"
        )
        if (error := await handler._check_model(asked)) is not None:
            return error
        made: Any = {"prompt_token_ids": [1]}
        if render:
            _, (made,) = await renderer.render_chat(asked)
        params = SimpleNamespace(extra_args=None, output_kind=None)
        async for _ in engine.generate(made, params, "r"):
            pass
        return JSONResponse({"model": models.model_name()})

    @app.post(CHAT)
    @app.post("/v1/messages")
    async def chat(raw: Request) -> Any:
        return await answer(raw, deciding)

    @app.post(f"{CHAT}/batch")
    async def batch(raw: Request) -> Any:
        return await answer(raw, naive, render=False)

    @app.get("/v1/models")
    async def listed() -> Any:
        return [card.id for card in (await models.show_available_models()).data]

    @app.post("/tokenize")
    async def tokenize(raw: Request) -> Any:
        body = await raw.json()
        error = await naive._check_model(SimpleNamespace(model=body["model"]))
        return JSONResponse({"tokens": []}) if error is None else error

    for path in ("/collective_rpc", "/v1/embeddings", "/health", "/metrics"):
        app.add_api_route(path, lambda: "open", methods=["GET", "POST"])


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    @asynccontextmanager
    async def start(**settings: Any) -> AsyncIterator[Callee]:
        given = settings_for_tests(tmp_path, **{"caller_access": "tokens", **settings})
        service, engine = service_for_tests(tmp_path, settings=given), Engine()
        app = app_for_tests(service)
        async with app.router.lifespan_context(app):
            for prompt in ("support", "legal"):
                artifact = read_artifact(None, None, None, prompt, service.served.limits)
                await service.import_version(prompt, "v1", artifact, parse_record(None), None)
                await service.set_alias(prompt, "production", "v1", None)
            wired(service, app, engine)
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://server") as http:
                yield Callee(service, app, engine, http)

    return start


def same(one: httpx.Response, other: httpx.Response) -> bool:
    """Whether nothing but the name that was asked for tells two answers apart."""

    def shown(answer: httpx.Response) -> tuple[int, Any, str]:
        model = json.loads(answer.request.content)["model"] or ""
        headers = {k: v for k, v in answer.headers.items() if k != "content-length"}
        return answer.status_code, headers, answer.text.replace(f"`{model}`", "`it`")

    return shown(one) == shown(other)


async def test_a_key_opens_the_prompts_that_it_is_for(serve: Serve) -> None:
    async with serve() as server:
        key = await server.key("a", "supp*")
        for name in ("support", "support@v1", "support@production"):
            answer = await server.ask(name, key)
            assert (answer.status_code, answer.json()["model"]) == (200, "support@v1")


@pytest.mark.parametrize("path", [CHAT, f"{CHAT}/batch", "/tokenize", "/v1/messages"])
async def test_a_prompt_that_it_is_not_for_looks_like_one_that_does_not_exist(
    serve: Serve, path: str
) -> None:
    async with serve() as server:
        key = await server.key("a", "supp*")
        unknown = await server.ask("nobody", key, path)
        assert (unknown.status_code, unknown.headers["x-softprompt-error"]) == (
            404,
            "model_not_found",
        )
        for model in ("legal", "legal@v1", "legal@v9", "legal@", BASE_MODEL):
            assert same(await server.ask(model, key, path), unknown), model
        named = {name for name in unknown.headers if name.startswith("x-softprompt-")}
        assert named == {"x-softprompt-error"}
        assert server.engine.salts == []


async def test_and_so_it_does_with_a_version_pinned(serve: Serve) -> None:
    async with serve() as server:
        key = await server.key("a", "support")
        pinned = {"x-softprompt-version": "v1"}
        answers = [
            await server.ask(name, key, **pinned) for name in ("legal", "nobody", BASE_MODEL)
        ]
        assert answers[0].status_code == 404
        assert same(answers[0], answers[1])
        assert same(answers[0], answers[2])


async def test_an_unknown_version_of_its_own_prompt_is_named(serve: Serve) -> None:
    async with serve() as server:
        answer = await server.ask("support@v9", await server.key("a", "support"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "version_not_found")


async def test_the_base_model_is_for_those_alone_whose_key_says_so(serve: Serve) -> None:
    async with serve() as server:
        without, having = await server.key("a", "*"), await server.key("b", "support", "@base")
        for path in (CHAT, f"{CHAT}/batch"):
            for model in (BASE_MODEL, "", None):
                assert (await server.ask(model, without, path)).status_code == 404
                assert (await server.ask(model, having, path)).status_code == 200


async def test_a_key_without_patterns_opens_everything(serve: Serve) -> None:
    async with serve() as server:
        key = await server.key("a")
        for model in ("support", "legal", BASE_MODEL):
            assert (await server.ask(model, key)).status_code == 200


async def test_models_are_listed_for_who_may_use_them(serve: Serve) -> None:
    async with serve() as server:
        own = await server.models(await server.key("a", "legal"))
        assert own == ["legal", "legal@production", "legal@v1"]
        both = await server.models(await server.key("b", "legal", "@base"))
        assert both == [BASE_MODEL, *own]


async def test_without_a_key_or_with_a_wrong_one_nothing_is_open(serve: Serve) -> None:
    async with serve() as server:
        for path in (CHAT, "/tokenize", "/collective_rpc", "/metrics", "/v1/embeddings"):
            missing = await server.ask("support", path=path)
            assert missing.json()["error"]["code"] == "missing_api_key"
            wrong = await server.ask("support", "guess", path)
            assert wrong.json()["error"]["code"] == "invalid_api_key"
            assert (missing.status_code, wrong.status_code) == (401, 401)
        assert (await server.http.get("/health")).status_code == 200


async def test_a_revoked_key_is_none(serve: Serve) -> None:
    async with serve() as server:
        key = await server.key("a")
        AccessTokens(server.service.catalogue.database).revoke("a")
        await server.service.feed.refresh()
        assert (await server.ask("support", key)).status_code == 401


async def test_anthropics_clients_send_their_key_in_a_header_of_their_own(serve: Serve) -> None:
    async with serve() as server:
        key = await server.key("a", "support")
        answer = await server.ask("support", None, "/v1/messages", **{"x-api-key": key})
        assert answer.status_code == 200
        refused = await server.ask("support", None, "/v1/messages", **{"x-api-key": "x"})
        assert (refused.status_code, refused.json()["type"]) == (401, "error")


async def test_an_endpoint_that_is_not_known_to_keep_prompts_apart_is_not_for_callers(
    serve: Serve,
) -> None:
    async with serve() as server:
        key = await server.key("a")
        for path in (
            "/collective_rpc",
            "/v1/embeddings",
            f"{CHAT}/",
            "/v1/responses/r",
            "/nothing",
        ):
            answer = await server.ask("support", key, path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "token_scope")
            assert (await server.ask("support", ADMIN_TOKEN, path)).status_code != 403


async def test_metrics_name_all_prompts_so_a_key_that_is_for_some_does_not_read_them(
    serve: Serve,
) -> None:
    async with serve() as server:
        statuses = [
            (await server.ask("", await server.key(name, *prompts, scope=scope), "/metrics"))
            for name, prompts, scope in (
                ("a", (), "caller"),
                ("b", ("support",), "reader"),
                ("c", (), "reader"),
            )
        ]
        assert [answer.status_code for answer in statuses] == [403, 403, 200]


async def test_a_token_of_the_admin_api_is_no_key(serve: Serve) -> None:
    async with serve() as server:
        for scope in SCOPES:
            allowed = scope in {"admin", "caller"}
            answer = await server.ask("support", await server.key(scope, scope=scope))
            assert answer.status_code == (200 if allowed else 403), scope


async def test_a_key_is_no_token_of_the_admin_api(serve: Serve) -> None:
    async with serve() as server:
        headers = {"authorization": f"Bearer {await server.key('a')}"}
        answer = await server.http.get("/softprompts/v1/prompts", headers=headers)
        assert answer.json()["error"]["code"] == "token_scope"


async def test_a_websocket_is_closed(serve: Serve) -> None:
    async with serve() as server:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "websocket", "path": "/v1/realtime", "headers": [], "query_string": b""}
        await server.app(scope, receive, send)
        assert [message["type"] for message in sent] == ["websocket.close"]


async def test_when_open_nobody_is_asked_and_unknown_names_are_vllms(serve: Serve) -> None:
    async with serve(caller_access="open") as server:
        for model in ("support", "legal", BASE_MODEL, None):
            assert (await server.ask(model)).status_code == 200
        assert "vLLM's own words" in (await server.ask("nobody")).text
        assert (await server.ask("", path="/collective_rpc")).status_code == 200


async def test_each_key_has_a_salt_of_its_own_where_that_is_asked_for(serve: Serve) -> None:
    async with serve(tenant_salt="token") as server:
        for key in (await server.key("a"), await server.key("b")):
            for model in (BASE_MODEL, BASE_MODEL, "support"):
                await server.ask(model, key)
        one, again, hard, *other = server.engine.salts
        assert one == again == hard is not None
        assert one not in other


HEADERS = ("x-softprompt-cohort", "x-softprompt-route", "x-softprompt-sticky-key")
HOSTILE = {
    "a line of its own": b"regulated\r\nx-evil: 1",
    "a NUL": b"a\x00b",
    "no Latin": "\u202e\u4e2d\u6587".encode(),
    "no UTF-8": b"\xff\xfe",
    "huge": b"x" * 200_000,
    "nothing": b"",
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_what_a_client_writes_into_our_headers_comes_back_in_none(
    serve: Serve, what: str
) -> None:
    async with serve(caller_access="open") as server:
        for name in (*HEADERS, "x-softprompt-version", "x-request-id", "traceparent"):
            answer = await server.http.post(
                CHAT, json={"model": "support"}, headers={name.encode(): HOSTILE[what]}
            )
            pinned = name == "x-softprompt-version"
            assert answer.status_code == (404 if pinned else 200), (name, answer.text)
            assert "x-evil" not in answer.headers
            for key, value in answer.headers.raw:
                assert value.isascii()
                assert not set(value) & set(b"\r\n\x00")
                assert len(key + value) < 200
        labels = await server.http.post(
            CHAT, json={"model": "support"}, headers={HEADERS[0].encode(): HOSTILE[what]}
        )
        assert labels.headers["x-softprompt-cohort"] == "other"


def callers(asked: bool = True) -> Callers:
    return Callers(lambda: SimpleNamespace(prompts={"support": None}), frozenset({"base"}), asked)


def test_who_passed_the_gate_by_is_nobody() -> None:
    for model in ("support", "base", None):
        with pytest.raises(NotFound):
            callers().check_model(RequestScope(), model)
    callers(asked=False).check_model(RequestScope(), "support")


def test_nobody_goes_on_from_an_answer_that_may_be_anothers() -> None:
    scope = RequestScope()
    scope.caller = ADMIN
    with pytest.raises(BadRequest) as caught:
        callers().check_request(scope, "support", "resp_1")
    assert caught.value.param == "previous_response_id"
    callers(asked=False).check_request(scope, "support", "resp_1")
