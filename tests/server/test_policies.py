"""The policy routes: JSON and YAML, whose change it is, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import pytest
from server.answers import V1, VERSIONS, code_of
from server.conftest import Api

from softprompt_serve.telemetry.events import Operation

Serve = Callable[..., AbstractAsyncContextManager[Api]]

pytestmark = pytest.mark.anyio

URL = f"{V1}/prompts/support/policy"
POLICY = {"baseline": "v1", "win": [{"evaluator": "f1", "dataset": "tickets", "margin": 0.01}]}
YAML = """
baseline: v1
win:
  - evaluator: f1
    dataset: tickets
    margin: 0.01
"""


async def put(api: Api, body: Any = POLICY, **headers: str) -> httpx.Response:
    return await api.client.put(URL, json=body, headers=headers)


async def test_a_policy_is_shown_with_all_its_fields_as_it_was_set(serve: Serve) -> None:
    async with serve() as api:
        await api.import_text()
        made = await api.client.put(URL, json=POLICY, params={"actor": "ada"})
        body = (await api.client.get(URL)).json()
        assert (made.status_code, made.json()) == (200, body)
        assert body["policy"]["win"][0]["margin"] == 0.01
        assert body["policy"]["guarded"] == ["production"]
        assert (body["prompt"], body["default"], body["updated_by"]) == ("support", False, "ada")
        assert body["updated_at"].endswith("Z")


async def test_yaml_and_json_say_the_same(serve: Serve) -> None:
    async with serve() as api:
        await api.import_text()
        written = await put(api)
        headers = {"content-type": "application/yaml"}
        again = await api.client.put(URL, content=YAML, headers=headers)
        assert again.status_code == 200
        assert again.json() == written.json()


async def test_a_prompt_of_texts_alone_has_no_policy(serve: Serve) -> None:
    async with serve() as api:
        await api.import_text()
        answer = await api.client.get(URL)
        assert answer.headers["etag"] == '"none"'
        assert (answer.json()["policy"], answer.json()["tag"]) == (None, "none")


async def test_the_etag_is_what_if_match_takes(serve: Serve) -> None:
    async with serve() as api:
        await api.import_text()
        first = await put(api, **{"if-match": '"none"'})
        assert first.status_code == 200
        stale = await put(api, {"baseline": "v1"}, **{"if-match": '"none"'})
        assert (stale.status_code, code_of(stale)) == (412, "stale_policy")
        tag = first.headers["etag"]
        assert tag == f'"{first.json()["tag"]}"'
        for written in (tag, f"W/{tag}", "*"):
            other = {"baseline": "v1", "min_items": len(written)}
            changed = await put(api, other, **{"if-match": written})
            assert changed.status_code == 200
            tag = changed.headers["etag"]
            await put(api)
        removed = await api.client.delete(URL, headers={"if-match": first.headers["etag"]})
        assert (removed.status_code, removed.headers["etag"]) == (200, '"none"')


async def test_an_if_match_that_is_no_tag_is_refused(serve: Serve) -> None:
    async with serve() as api:
        await api.import_text()
        answer = await put(api, **{"if-match": '"7"'})
        assert (answer.status_code, code_of(answer)) == (400, "invalid_if_match")


@pytest.mark.parametrize(
    ("param", "body"),
    [
        ("baseline", b"{}"),
        ("baseline", b'{"baseline": "v9"}'),
        ("colour", b"baseline: v1\ncolour: red"),
        ("win.0.dataset", b"baseline: v1\nwin: [{evaluator: f1}]"),
        (None, b""),
        (None, b"- v1"),
        (None, b"{"),
        (None, b"a: [b"),
        (None, b"\xff\xfe"),
        (None, b"[" * 50_000),
        (None, b"baseline: v1 #" + b"x" * 70_000),
    ],
)
async def test_what_is_no_policy_is_refused_by_its_field_and_changes_nothing(
    serve: Serve, param: str | None, body: bytes
) -> None:
    async with serve() as api:
        await api.import_text()
        before = api.service.catalogue.revision()
        answer = await api.client.put(URL, content=body)
        assert (answer.status_code, code_of(answer)) == (400, "invalid_policy")
        assert answer.json()["error"]["param"] == param
        assert api.service.catalogue.revision() == before


async def test_yaml_that_repeats_itself_without_end_is_refused(serve: Serve) -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(
        f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)
    )
    async with serve() as api:
        await api.import_text()
        answer = await api.client.put(URL, content=f"baseline: v1\n{bomb}")
        assert (answer.status_code, code_of(answer)) == (400, "invalid_policy")


async def test_yaml_makes_no_objects(serve: Serve) -> None:
    async with serve() as api:
        await api.import_text()
        body = 'baseline: !!python/object/apply:os.system ["true"]'
        answer = await api.client.put(URL, content=body)
        assert (answer.status_code, code_of(answer)) == (400, "invalid_policy")


async def test_a_prompt_that_is_not_there_has_none(serve: Serve) -> None:
    async with serve() as api:
        for method in ("GET", "PUT", "DELETE"):
            answer = await api.client.request(method, URL, json=POLICY)
            assert (answer.status_code, code_of(answer)) == (404, "prompt_not_found")


async def test_changes_are_audited_and_told(serve: Serve) -> None:
    async with serve() as api:
        told: list[Operation] = []
        await api.import_text()
        api.service.events.listen(Operation, told.append)
        await put(api)
        await api.client.delete(URL, params={"actor": "ada"})
        assert [(made.name, made.error) for made in told] == [
            ("policy", None),
            ("policy_remove", None),
        ]
        removed, put_, *_ = (await api.client.get(f"{V1}/audit")).json()["data"]
        assert (put_["action"], put_["detail"]["policy"]["baseline"]) == ("policy.set", "v1")
        assert (removed["action"], removed["actor"]) == ("policy.remove", "ada")


async def test_a_policy_outlives_what_it_names(serve: Serve) -> None:
    async with serve() as api:
        await api.import_text()
        await api.import_text("Be kind.")
        await put(api)
        await api.client.delete(f"{VERSIONS}/v1")
        assert (await api.client.get(URL)).json()["policy"]["baseline"] == "v1"


async def test_openapi_knows_what_a_policy_looks_like(serve: Serve) -> None:
    async with serve() as api:
        schema = (await api.client.get("/openapi.json")).json()
        body = schema["paths"][f"{V1}/prompts/{{name}}/policy"]["put"]["requestBody"]
        for kind in ("application/json", "application/yaml"):
            name = body["content"][kind]["schema"]["$ref"].rpartition("/")[2]
            assert "baseline" in schema["components"]["schemas"][name]["properties"]
