"""The console with tokens of less than all scopes: what is hidden is refused as well."""

from __future__ import annotations

import pytest
from console.conftest import Serve
from console.visitors import Visitor

pytestmark = pytest.mark.anyio

PROMOTE = "/softprompts/prompts/support/promote"


async def made(visitor: Visitor, *scopes: str, prompts: tuple[str, ...] = ()) -> str:
    answer = await visitor.api(
        "POST", "/tokens", json={"name": "theirs", "scopes": scopes, "prompts": prompts}
    )
    token: str = answer.json()["token"]
    return token


async def test_a_reader_sees_no_button_and_is_refused_what_it_did(stranger: Visitor) -> None:
    await stranger.split()
    assert (await stranger.log_in(token=await made(stranger, "reader"))).status_code == 303
    page = await stranger.page("/prompts/support")
    assert not [link for link in page.links() if "/support/" in link]
    before = await stranger.rollout()
    asked = await stranger.get("/prompts/support/promote")
    assert (asked.status_code, "takes the scope operator" in asked.text) == (403, True)
    form = next(found["value"] or "" for tag, found in page.tags if found.get("name") == "form")
    fields = {"form": form, "generation": str(before["generation"]), "version": "v2"}
    sent = await stranger.send("/prompts/support/promote", fields)
    assert sent.status_code == 403
    assert (await stranger.rollout())["generation"] == before["generation"]


async def test_an_operator_promotes_under_the_tokens_name(stranger: Visitor) -> None:
    await stranger.split()
    await stranger.log_in("ada", await made(stranger, "operator"))
    assert PROMOTE in {
        link.partition("?")[0] for link in (await stranger.page("/prompts/support")).links()
    }
    answer = await stranger.confirmed("/prompts/support/promote?version=v2", version="v2")
    assert answer.status_code == 303
    assert (await stranger.audit())[0]["actor"] == "theirs/console:ada"


async def test_a_bound_token_shows_its_prompts_alone(stranger: Visitor) -> None:
    await stranger.soft("v1")
    await stranger.soft("v1", prompt="legal")
    await stranger.log_in(token=await made(stranger, "reader", prompts=("legal",)))
    page = await stranger.page("/")
    assert "/softprompts/prompts/legal" in page.links()
    assert "support" not in page.text
    assert "/softprompts/residency" not in page.links()
    for path in ("/prompts/support", "/residency", "/audit", "/audit?prompt=support"):
        assert (await stranger.get(path)).status_code == 403, path
    for path in ("/prompts/legal", "/audit?prompt=legal"):
        assert (await stranger.get(path)).status_code == 200, path


@pytest.mark.parametrize("how", ["DELETE", "POST"])
async def test_a_session_ends_with_its_token(stranger: Visitor, how: str) -> None:
    await stranger.log_in(token=await made(stranger, "reader"))
    assert (await stranger.get("/")).status_code == 200
    await stranger.api(how, "/tokens/theirs" + ("/rotate" if how == "POST" else ""))
    assert (await stranger.get("/")).headers["location"] == "/softprompts/login"


@pytest.mark.parametrize("scope", ["feedback", "caller"])
async def test_a_token_that_may_not_read_is_not_let_in(stranger: Visitor, scope: str) -> None:
    assert (await stranger.log_in(token=await made(stranger, scope))).status_code == 401


async def test_guesses_count_against_the_limit_of_the_api(serve: Serve) -> None:
    async with serve(wrong_tokens_per_minute=2) as stranger:
        statuses = [(await stranger.log_in(token="guess")).status_code for _ in range(3)]
        assert statuses == [401, 401, 429]
        headers = {"authorization": "Bearer guess"}
        answer = await stranger.client.get("/softprompts/v1/prompts", headers=headers)
        assert answer.status_code == 429
