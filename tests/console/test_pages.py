"""The pages over HTTP: who sees them, what they show, and what every answer carries."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import torch
from console.visitors import Page, Visitor
from postgres import Postgres

from softprompt_serve.console.figures import seconds
from softprompt_serve.errors import Unavailable
from softprompt_serve.registry.tallies import Tally
from softprompt_serve.rollout.histogram import Histogram
from softprompt_serve.rollout.tally import Counts
from softprompt_serve.testing import KV

Serve = Callable[..., AbstractAsyncContextManager[Visitor]]

pytestmark = pytest.mark.anyio

PAGES = ["/", "/prompts/support", "/prompts/support/promote", "/residency", "/audit"]
MARKUP = "<script>alert(1)</script><b onclick=x>'\"&"
RECORD = {
    "dataset": "tickets",
    "optimizer": {"name": "AdamW", "learning_rate": 0.02},
    "metrics": {"right_answers": 0.93},
    "notes": MARKUP,
    "created_by": MARKUP,
}


def counted(requests: int, failures: int = 0, ttft: float = 0.2) -> dict[str, Any]:
    counts = Counts()
    counts.count("requests", requests)
    counts.count("failures", failures)
    for _ in range(requests - failures):
        counts.measure("ttft", ttft)
    return counts.to_json()


# --- who sees them


@pytest.mark.parametrize("path", PAGES)
async def test_a_stranger_is_sent_to_the_login_and_comes_back(stranger: Visitor, path: str) -> None:
    await stranger.two_versions()
    sent = await stranger.get(path)
    assert sent.status_code == 303
    login = Page((await stranger.client.get(sent.headers["location"])).text)
    back = await stranger.log_in(next=login.fields["next"])
    assert back.headers["location"] == f"/softprompts{path}"


async def test_a_query_survives_the_login(stranger: Visitor) -> None:
    sent = await stranger.get("/audit?prompt=support&before=9")
    login = Page((await stranger.client.get(sent.headers["location"])).text)
    back = await stranger.log_in(next=login.fields["next"])
    assert back.headers["location"] == "/softprompts/audit?prompt=support&before=9"


@pytest.mark.parametrize("wanted", ["https://evil.test/", "//evil.test", "/v1/models", "x\r\ny: z"])
async def test_a_login_leads_nowhere_else(stranger: Visitor, wanted: str) -> None:
    assert (await stranger.log_in(next=wanted)).headers["location"] == "/softprompts/"


async def test_a_stranger_s_script_is_told_and_not_sent_about(stranger: Visitor) -> None:
    assert (await stranger.get("/", x_console_fragment="1")).status_code == 401


async def test_a_script_of_another_origin_reads_nothing(ada: Visitor) -> None:
    for site in ("same-site", "cross-site"):
        answer = await ada.get("/", sec_fetch_site=site, sec_fetch_mode="cors")
        assert answer.status_code == 403
        assert "Log out" not in answer.text


async def test_without_the_setting_there_is_no_console(serve: Serve) -> None:
    async with serve(console=False) as visitor:
        for path in ("", "/", "/login", "/static/0/console.css"):
            assert (await visitor.get(path)).status_code == 404
        assert (await visitor.api("GET", "/prompts")).status_code == 200


async def test_the_address_without_its_slash_leads_to_the_console(ada: Visitor) -> None:
    answer = await ada.get("")
    assert (answer.status_code, answer.headers["location"]) == (303, "/softprompts/")


# --- what every answer carries


@pytest.mark.parametrize(
    "path", ["", *PAGES, "/login", "/prompts/nobody", "/prompts/NO", "/static/0/console.css"]
)
async def test_every_answer_has_the_headers(ada: Visitor, path: str) -> None:
    await ada.two_versions()
    headers = (await ada.get(path)).headers
    assert headers["content-security-policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", [*PAGES, "/prompts/nobody"])
async def test_no_page_has_inline_code_or_anything_from_elsewhere(ada: Visitor, path: str) -> None:
    await ada.split(steps=[{"weight": 10}], gates=[{"metric": "error_rate", "max": 0.1}])
    page = Page((await ada.get(path)).text)
    for tag, attributes in page.tags:
        assert tag != "style"
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        assert tag != "script" or (attributes.get("src") or "").startswith("/softprompts/static/")
        for name in ("src", "href", "action"):
            assert (attributes.get(name) or "/").startswith(("/softprompts/", "/", "#"))
            assert "//" not in (attributes.get(name) or "")


async def test_a_file_may_be_kept_for_ever_at_the_address_of_its_content(ada: Visitor) -> None:
    page = await ada.page("/")
    (script,) = [found["src"] for tag, found in page.tags if tag == "script"]
    answer = await ada.client.get(script)
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert (await ada.get("/static/000000000000/console.js")).status_code == 404


@pytest.mark.parametrize("stripped", [True, False])
async def test_behind_a_prefix_every_address_has_it(serve: Serve, stripped: bool) -> None:
    async with serve(root_path="/models/one", stripped=stripped) as visitor:
        sent = await visitor.get("/audit")
        assert sent.headers["location"] == (
            "/models/one/softprompts/login?next=%2Fsoftprompts%2Faudit"
        )
        back = await visitor.log_in(next="/softprompts/audit")
        assert back.headers["location"] == "/models/one/softprompts/audit"
        assert "Path=/models/one/softprompts;" in back.headers["set-cookie"]
        page = await visitor.page("/audit")
        addresses = [
            found[name]
            for _, found in page.tags
            for name in ("href", "src", "action")
            if found.get(name) and not str(found[name]).startswith("#")
        ]
        assert len(addresses) > 5
        assert all(str(address).startswith("/models/one/softprompts/") for address in addresses)


# --- what they show


async def test_the_overview_shows_production_its_digest_and_the_split(ada: Visitor) -> None:
    await ada.split()
    page = await ada.page("/")
    digest = ada.service.find_version("support", "v1").digest
    assert digest[:12] in page.text
    assert "v1 75 %" in page.text
    assert "v2 25 %" in page.text
    assert "static" in page.text


async def test_the_overview_is_found_through_and_turned_over(
    ada: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("softprompt_serve.console.overview.PROMPTS", 2)
    for name in ("a-one", "a-two", "a-three", "b-four"):
        await ada.api("POST", f"/prompts/{name}/versions", data={"text": "Be brief."})
    first = await ada.page("/?find=A-")
    assert ("a-one" in first.text, "a-three" in first.text) == (True, True)
    assert "3 prompts, page 1 of 2" in first.text
    assert "b-four" not in first.text
    second = await ada.page("/?find=a-&page=2")
    assert "a-two" in second.text
    assert "a-two" in (await ada.page("/?find=a-&page=999")).text


async def test_a_prompt_shows_versions_with_digests_and_records(ada: Visitor) -> None:
    await ada.soft("v1", record=json.dumps(RECORD))
    page = await ada.page("/prompts/support")
    assert ada.service.find_version("support", "v1").digest in page.text
    for told in ("tickets", "AdamW", "0.02", "right_answers", "0.93", "not recorded: "):
        assert told in page.text


async def test_a_prompt_shows_what_was_learned_by_its_kind(ada: Visitor) -> None:
    await ada.soft("v1")
    await ada.learned("v2", torch.zeros(KV.layers, 2, 3, KV.kv_heads, KV.head_dim))
    page = await ada.page("/prompts/support")
    for told in ("8, float32", "every layer, float32"):
        assert told in page.text
    assert "2 layers, 2 heads of 4" in (await ada.page("/residency")).text


async def test_a_prompt_shows_what_was_counted_of_its_arms(ada: Visitor) -> None:
    await ada.split()
    epoch = (await ada.rollout())["epoch"]
    rows = [
        Tally("support", epoch, "b", "requests", "v1", "default", counted(3000, 30)),
        Tally("support", epoch, "b", "requests", "v2", "default", counted(1000, 5, ttft=0.4)),
    ]
    await asyncio.to_thread(ada.service.tallies.write, rows)
    page = await ada.page("/prompts/support")
    waited = Histogram("seconds")
    waited.add(0.4)
    for told in ("3,000", "1,000", "1 %", "0.5 %", seconds(waited.quantile(0.5))):
        assert told in page.text
    assert "v1 3,000 v2 1,000" in (await ada.page("/")).text


async def test_what_users_wrote_is_text_and_no_markup(ada: Visitor) -> None:
    await ada.soft("v1", record=json.dumps(RECORD))
    await ada.api(
        "PUT",
        "/prompts/support/aliases/production",
        json={"version": "v1"},
        params={"actor": MARKUP},
    )
    for path in ("/prompts/support", "/audit", "/"):
        answer = await ada.get(path)
        assert "<script>alert" not in answer.text
        assert "<b onclick" not in answer.text
    assert MARKUP in (await ada.page("/audit")).text
    assert (await ada.page("/prompts/support")).text.count(MARKUP) >= 3


async def test_residency_shows_each_worker_and_names_what_it_holds(ada: Visitor) -> None:
    await ada.two_versions()
    page = await ada.page("/residency")
    assert "Worker 0" in page.text
    assert "4 of 1,024" in page.text
    assert "support@v1" in page.text


async def test_the_audit_is_turned_over_to_its_end(
    ada: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("softprompt_serve.console.pages.CHANGES", 2)
    await ada.split()
    newest = await ada.page("/audit")
    assert "rollout.set" in newest.text
    assert "version.imported" not in newest.text
    (older,) = [link for link in newest.links() if "before=" in link]
    rest = await ada.page(older.removeprefix("/softprompts"))
    assert "version.imported" in rest.text
    assert "That is all." in rest.text
    page = await ada.page("/audit?prompt=nobody")
    assert "Nothing has been changed." in page.text


async def test_the_script_gets_the_parts_alone(ada: Visitor) -> None:
    await ada.two_versions()
    answer = await ada.get("/prompts/support", x_console_fragment="1")
    assert "<html" not in answer.text
    whole = await ada.page("/prompts/support")
    assert {"rollout", "arms", "shadow", "versions", "history", "audit"} <= (
        Page(answer.text).ids() & whole.ids()
    )


# --- when something is missing


@pytest.mark.parametrize("path", ["/prompts/nobody", "/prompts/NO", "/prompts/support/erase"])
async def test_what_is_not_there_is_a_page_that_says_so(ada: Visitor, path: str) -> None:
    answer = await ada.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


async def test_while_the_server_starts_pages_say_so_and_try_again(ada: Visitor) -> None:
    transport: Any = ada.client._transport
    transport.app.state.softprompt.service = None
    answer = await ada.get("/")
    assert (answer.status_code, answer.headers["refresh"]) == (503, "3")
    assert "still starting" in answer.text


async def test_workers_that_can_t_be_asked_are_said_to_be_so(ada: Visitor) -> None:
    workers: Any = ada.service.residency.workers
    workers.failure = Unavailable("The engine does not answer.", code="workers_failed")
    page = await ada.page("/residency")
    assert "The engine does not answer." in page.text


async def test_without_the_catalogue_pages_show_what_is_in_memory(
    serve: Serve, postgres: Postgres, postgres_url: str
) -> None:
    async with serve(database_url=postgres_url) as visitor:
        await visitor.log_in()
        await visitor.split()
        await asyncio.to_thread(postgres.kill)
        try:
            for path in ("/", "/prompts/support"):
                page = await visitor.page(path)
                assert "Not everything can be read now." in page.text
                assert "v2 25 %" in page.text
            assert "Not everything" in (await visitor.page("/audit")).text
            refused = await visitor.get("/prompts/support/promote")
            assert refused.status_code == 503
            assert "can't be done now" in refused.text
        finally:
            await asyncio.to_thread(postgres.start)
