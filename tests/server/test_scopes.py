"""Each scope against each call of the running server: what the table says is what happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from server.answers import V1, VERSIONS, code_of

from softprompt_serve.access.endpoints import ENDPOINTS, OPEN, Endpoint, find
from softprompt_serve.access.scopes import IMPLIED, SCOPES, Scope
from softprompt_serve.errors import MethodNotAllowed, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    import httpx

    Serve = Callable[..., AbstractAsyncContextManager[Any]]

pytestmark = pytest.mark.anyio

FILLED = {
    "name": "support",
    "version": "v1",
    "alias": "candidate",
    "hook": "rollout",
    "response_id": "chatcmpl-1",
    "run": "0" * 32,
    "token": "nobody",
}


def served(schema: dict[str, Any]) -> set[tuple[str, str]]:
    """Each call of the running application, as its OpenAPI document lists them."""
    return {
        (method.upper(), path.removeprefix(V1))
        for path, methods in schema["paths"].items()
        for method in methods
        if path.startswith(V1)
    }


async def made(api: Any, name: str, *scopes: Scope, prompts: tuple[str, ...] = ()) -> str:
    answer = await api.client.post(
        f"{V1}/tokens", json={"name": name, "scopes": scopes, "prompts": prompts}
    )
    assert answer.status_code == 201, answer.text
    token: str = answer.json()["token"]
    return token


async def call(api: Any, token: str, endpoint: Endpoint, **filled: str) -> httpx.Response:
    path = endpoint.path.format(**FILLED | filled)
    headers = {"authorization": f"Bearer {token}"}
    answer: httpx.Response = await api.client.request(
        endpoint.method, f"{V1}{path}", headers=headers, json={}
    )
    return answer


async def test_the_table_has_each_call_of_the_server_and_no_other(serve: Serve) -> None:
    async with serve() as api:
        schema = (await api.client.get("/openapi.json")).json()
    listed = {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS}
    assert served(schema) == listed | {("GET", path) for path in OPEN}
    assert len(listed) == len(ENDPOINTS)


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_scope_opens_what_the_table_says_and_nothing_else(
    serve: Serve, scope: Scope
) -> None:
    async with serve() as api:
        await api.import_text(version="v1")
        token = await made(api, "one", scope)
        for endpoint in ENDPOINTS:
            revision = api.service.catalogue.revision()
            answer = await call(api, token, endpoint)
            if endpoint.scope in IMPLIED[scope]:
                assert answer.status_code not in {401, 403}, (endpoint, answer.text)
            else:
                assert (answer.status_code, code_of(answer)) == (403, "token_scope"), endpoint
                assert api.service.catalogue.revision() == revision


async def test_a_call_that_is_not_in_the_table_is_refused_though_it_is_served(
    serve: Serve,
) -> None:
    async with serve() as api:
        app = api.client._transport.app

        async def forgotten() -> str:
            return "open"

        app.add_api_route(f"{V1}/forgotten", forgotten)
        answer = await api.client.get(f"{V1}/forgotten")
        assert (answer.status_code, code_of(answer)) == (404, "route_not_found")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/prompts/"),
        ("GET", "/prompts//versions"),
        ("GET", "/prompts\n"),
        ("GET", ""),
        ("GET", "x/prompts"),
        ("GET", "/prompts/support/versions/v1/bundle/"),
    ],
)
def test_what_is_nearly_a_call_is_none(method: str, path: str) -> None:
    with pytest.raises(NotFound):
        find(method, path)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("HEAD", "/prompts", ("GET",)),
        ("PATCH", "/prompts/support/policy", ("DELETE", "GET", "PUT")),
    ],
)
def test_another_method_is_told_which_ones_there_are(
    method: str, path: str, allowed: tuple[str, ...]
) -> None:
    with pytest.raises(MethodNotAllowed) as refused:
        find(method, path)
    assert refused.value.allow == allowed


async def test_a_token_bound_to_prompts_opens_no_other(serve: Serve) -> None:
    async with serve() as api:
        await api.import_text(version="v1")
        await api.import_text(prompt="legal", version="v1")
        token = await made(api, "bound", "publisher", "operator", "feedback", prompts=("supp*",))
        for endpoint in ENDPOINTS:
            if endpoint.scope == "admin" or endpoint.bound not in {"path", "all"}:
                continue
            for other in ("legal", "nobody"):
                answer = await call(api, token, endpoint, name=other)
                assert (answer.status_code, code_of(answer)) == (403, "token_prompts"), endpoint
            own = await call(api, token, endpoint)
            assert (own.status_code == 403) == (endpoint.bound == "all"), endpoint


async def test_lists_have_the_prompts_of_a_bound_token_alone(serve: Serve) -> None:
    async with serve() as api:
        await api.import_text(version="v1")
        await api.import_text(prompt="legal", version="v1")
        headers = {
            "authorization": f"Bearer {await made(api, 'bound', 'reader', prompts=('legal',))}"
        }
        listed = (await api.client.get(f"{V1}/prompts", headers=headers)).json()["data"]
        assert [prompt["name"] for prompt in listed] == ["legal"]
        all_changes = await api.client.get(f"{V1}/audit", headers=headers)
        assert (all_changes.status_code, code_of(all_changes)) == (403, "token_prompts")
        own = await api.client.get(f"{V1}/audit?prompt=legal", headers=headers)
        assert [entry["prompt"] for entry in own.json()["data"]] == ["legal"]


async def test_a_bound_controller_asks_about_its_prompts_alone(serve: Serve) -> None:
    async with serve() as api:
        await api.import_text(prompt="legal", version="v1")
        token = await made(api, "flagger", "operator", prompts=("support",))
        answer = await api.client.post(
            f"{V1}/hooks/flagger/pre-rollout",
            json={"metadata": {"prompt": "legal", "version": "v1"}},
            headers={"authorization": f"Bearer {token}"},
        )
        assert (answer.status_code, code_of(answer)) == (403, "token_prompts")


async def test_the_tokens_name_comes_first_in_the_audit(serve: Serve) -> None:
    async with serve() as api:
        token = await made(api, "ci", "publisher")
        headers = {"authorization": f"Bearer {token}"}
        for name, query in (("v1", ""), ("v2", "?actor=admin")):
            answer = await api.client.post(
                f"{VERSIONS}{query}", data={"text": name, "version": name}, headers=headers
            )
            assert answer.status_code == 201
        changes = (await api.client.get(f"{V1}/audit")).json()["data"]
        assert [entry["actor"] for entry in changes] == ["ci/admin", "ci", None]


async def test_a_token_may_not_make_itself_longer_arms(serve: Serve) -> None:
    async with serve() as api:
        for scope in SCOPES:
            if scope == "admin":
                continue
            token = await made(api, f"a-{scope}", scope)
            answer = await api.client.post(
                f"{V1}/tokens",
                json={"name": "mine", "scopes": ["admin"]},
                headers={"authorization": f"Bearer {token}"},
            )
            assert (answer.status_code, code_of(answer)) == (403, "token_scope")
