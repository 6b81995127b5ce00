"""Logging in, and what is changed: only by a session's own form, and only what it showed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
from console.visitors import ORIGIN, Page, Visitor

from softprompt_serve.console.web import COOKIE
from softprompt_serve.testing import ADMIN_TOKEN

Serve = Callable[..., AbstractAsyncContextManager[Visitor]]

pytestmark = pytest.mark.anyio

STEPS = [{"weight": 10, "min_requests": 10}, {"weight": 50}]
PROMOTE = "/prompts/support/promote"


async def progressing(visitor: Visitor) -> None:
    await visitor.two_versions()
    arms = [{"version": "v1", "weight": 100}, {"version": "v2", "weight": 0}]
    await visitor.roll_out(arms=arms, steps=STEPS)


# --- logging in and out


async def test_a_cookie_is_for_the_console_alone(stranger: Visitor) -> None:
    set_cookie = (await stranger.log_in()).headers["set-cookie"]
    for part in ("HttpOnly", "Path=/softprompts", "SameSite=strict", "Max-Age=28800"):
        assert part in set_cookie
    assert "Secure" not in set_cookie


async def test_over_https_it_stays_there(serve: Serve) -> None:
    async with serve(origin="https://server") as visitor:
        answer = await visitor.send("/login", {"token": ADMIN_TOKEN}, origin="https://server")
        assert "; Secure" in answer.headers["set-cookie"]


async def test_a_session_lasts_as_long_as_the_setting_says(serve: Serve) -> None:
    async with serve(console_session_minutes=1) as visitor:
        assert "Max-Age=60;" in (await visitor.log_in()).headers["set-cookie"]


@pytest.mark.parametrize("token", ["", "wrong", ADMIN_TOKEN[:-1], f"{ADMIN_TOKEN}x", "é"])
async def test_with_another_token_nobody_gets_in(stranger: Visitor, token: str) -> None:
    answer = await stranger.log_in(token=token)
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert answer.text == (await stranger.log_in(name="<b>", token="other")).text
    assert (await stranger.get("/")).status_code == 303


async def test_the_feedback_token_is_not_enough(serve: Serve) -> None:
    async with serve(feedback_token="only-for-feedback") as visitor:
        assert (await visitor.log_in(token="only-for-feedback")).status_code == 401


async def test_a_token_with_space_around_it_was_pasted(stranger: Visitor) -> None:
    assert (await stranger.log_in(token=f" {ADMIN_TOKEN}\n")).status_code == 303


async def test_a_name_that_could_mislead_is_refused(stranger: Visitor) -> None:
    answer = await stranger.log_in(name="<b>ada")
    assert answer.status_code == 422
    assert "set-cookie" not in answer.headers


async def test_a_login_from_another_site_is_refused(stranger: Visitor) -> None:
    for origin in ("http://evil.test", "null", None):
        answer = await stranger.send("/login", {"token": ADMIN_TOKEN}, origin=origin)
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers


async def test_no_token_is_logged(stranger: Visitor, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        await stranger.log_in(token="a-wrong-token")
        await stranger.log_in()
    assert "console:ada logged in" in caplog.text
    assert "refused" in caplog.text
    assert ADMIN_TOKEN not in caplog.text
    assert "a-wrong-token" not in caplog.text


async def test_who_is_in_need_not_log_in_again(ada: Visitor) -> None:
    answer = await ada.get("/login?next=/softprompts/audit")
    assert (answer.status_code, answer.headers["location"]) == (303, "/softprompts/audit")


async def test_who_logs_out_is_out(ada: Visitor) -> None:
    token = next(
        found["value"]
        for tag, found in (await ada.page("/")).tags
        if tag == "input" and found.get("name") == "form"
    )
    answer = await ada.send("/logout", {"form": token or ""})
    assert (answer.status_code, answer.headers["location"]) == (303, "/softprompts/login")
    assert COOKIE not in ada.client.cookies
    assert (await ada.get("/")).status_code == 303


async def test_a_cookie_of_another_server_is_none(ada: Visitor) -> None:
    ada.client.cookies.clear()
    ada.client.cookies.set(COOKIE, "1999999999.aa.YWRh.bb", path="/softprompts")
    assert (await ada.get("/")).status_code == 303


# --- whose form it must be


async def test_without_a_session_nothing_is_changed(ada: Visitor) -> None:
    await ada.split()
    form = (await ada.page(PROMOTE)).fields
    ada.client.cookies.clear()
    answer = await ada.send(PROMOTE, form)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/softprompts/login")
    assert (await ada.rollout())["generation"] == 1


@pytest.mark.parametrize("origin", ["http://evil.test", "null", "https://server", None])
async def test_another_site_s_form_changes_nothing(ada: Visitor, origin: str | None) -> None:
    await ada.split()
    form = (await ada.page(PROMOTE)).fields
    answer = await ada.send(PROMOTE, form, origin=origin)
    if origin == "https://server":  # the same host behind a proxy that ends TLS
        assert answer.status_code == 303
    else:
        assert answer.status_code == 403
        assert (await ada.rollout())["generation"] == 1


@pytest.mark.parametrize("token", ["", "0" * 64, None])
async def test_a_form_of_no_session_changes_nothing(ada: Visitor, token: str | None) -> None:
    await ada.split()
    form = (await ada.page(PROMOTE)).fields
    theirs = form.pop("form")
    answer = await ada.send(PROMOTE, form if token is None else form | {"form": token})
    assert answer.status_code == 403
    assert "nothing was changed" in answer.text
    await ada.log_in("eve")
    assert (await ada.send(PROMOTE, form | {"form": theirs})).status_code == 403
    assert (await ada.rollout())["generation"] == 1


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"generation": "one"}, 400),
        ({"generation": "-1"}, 400),
        ({"generation": "²"}, 400),
        ({"generation": "9" * 30}, 400),
        ({"generation": ""}, 400),
        ({"tie": ""}, 412),
        ({"tie": "é"}, 412),
        ({"version": "v9"}, 422),
        ({"reason": "x" * 20_000}, 413),
    ],
)
async def test_a_form_that_was_tampered_with_changes_nothing(
    ada: Visitor, fields: dict[str, str], status: int
) -> None:
    await ada.split()
    form = (await ada.page(PROMOTE)).fields
    assert (await ada.send(PROMOTE, form | fields)).status_code == status
    assert (await ada.rollout())["generation"] == 1


# --- what is changed


async def test_a_promotion_does_what_was_shown_and_is_noted(ada: Visitor) -> None:
    await ada.split()
    asked = await ada.page(PROMOTE)
    for told in ("Promote v2 of support?", "25 %", "100 %", "75 %", "0 %"):
        assert told in asked.text
    answer = await ada.send(PROMOTE, asked.fields | {"reason": " it is\n better\x00 "})
    assert answer.headers["location"] == "/softprompts/prompts/support?done=promote"
    rollout = await ada.rollout()
    assert (rollout["state"], rollout["production"]) == ("promoted", "v2")
    newest = (await ada.audit())[0]
    assert (newest["action"], newest["actor"]) == ("rollout.promoted", "console:ada")
    assert newest["detail"]["reason"] == "it is better"
    assert "Promoted." in (await ada.page("/prompts/support?done=promote")).text


async def test_who_gave_no_name_is_the_console(stranger: Visitor) -> None:
    await stranger.log_in(name="")
    await stranger.split()
    await stranger.confirmed(PROMOTE)
    assert (await stranger.audit())[0]["actor"] == "console"


async def test_any_version_can_be_promoted(ada: Visitor) -> None:
    await ada.split()
    await ada.soft("v3")
    await ada.confirmed(f"{PROMOTE}?version=v3")
    assert (await ada.rollout())["production"] == "v3"


async def test_a_prompt_without_a_rollout_can_be_promoted_and_rolled_back(ada: Visitor) -> None:
    await ada.two_versions()
    assert (await ada.confirmed(f"{PROMOTE}?version=v2")).status_code == 303
    assert (await ada.rollout())["production"] == "v2"
    assert (await ada.confirmed("/prompts/support/rollback")).status_code == 303
    assert (await ada.rollout())["production"] == "v1"


async def test_a_rollout_is_paused_and_goes_on(ada: Visitor) -> None:
    await progressing(ada)
    await ada.confirmed("/prompts/support/pause", reason="lunch")
    paused = await ada.rollout()
    assert (paused["state"], paused["reason"]) == ("paused", "lunch")
    await ada.confirmed("/prompts/support/resume")
    assert (await ada.rollout())["state"] == "pending"


async def test_a_rollback_goes_back(ada: Visitor) -> None:
    await ada.split()
    asked = await ada.page("/prompts/support/rollback")
    assert "Roll support back to v1?" in asked.text
    await ada.confirmed("/prompts/support/rollback")
    rollout = await ada.rollout()
    assert (rollout["state"], rollout["weights"]) == ("rolled_back", {"v1": 100})


async def test_what_somebody_else_changed_meanwhile_is_not_overwritten(ada: Visitor) -> None:
    await ada.split()
    form = (await ada.page(PROMOTE)).fields
    await ada.api("PUT", "/prompts/support/rollout/weights", json={"v1": 50, "v2": 50})
    before = await ada.audit()
    answer = await ada.send(PROMOTE, form)
    assert answer.status_code == 412
    page = Page(answer.text)
    assert "Nothing was changed." in page.text
    assert page.fields["generation"] == "2"  # what is shown now can be confirmed
    assert await ada.audit() == before
    assert (await ada.send(PROMOTE, page.fields)).status_code == 303


async def test_nor_where_production_moved_in_the_same_generation(ada: Visitor) -> None:
    await ada.two_versions()
    await ada.soft("v3")
    form = (await ada.page(f"{PROMOTE}?version=v3")).fields
    await ada.alias("v2")
    assert (await ada.rollout())["generation"] == 0
    answer = await ada.send(PROMOTE, form)
    assert answer.status_code == 412
    assert "has changed since you looked" in answer.text
    assert (await ada.rollout())["production"] == "v2"


async def test_a_form_that_is_sent_twice_does_it_once(ada: Visitor) -> None:
    await ada.split()
    form = (await ada.page(PROMOTE)).fields
    assert (await ada.send(PROMOTE, form)).status_code == 303
    assert (await ada.send(PROMOTE, form)).status_code == 412
    assert (await ada.rollout())["generation"] == 2


async def test_what_is_so_already_needs_no_confirmation(ada: Visitor) -> None:
    await ada.split()
    await ada.confirmed(PROMOTE)
    page = await ada.page(f"{PROMOTE}?version=v2")
    assert "nothing to do" in page.text
    assert "tie" not in page.fields


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/prompts/support/pause", 409, "rollout_has_no_steps"),
        ("/prompts/support/promote", 409, "no_candidate"),
        ("/prompts/support/rollback", 409, "nothing_to_roll_back"),
        ("/prompts/support/promote?version=v9", 422, "rollout_unknown_version"),
        ("/prompts/nobody/promote", 404, "not_found"),
    ],
)
async def test_what_can_t_be_done_says_why_and_offers_no_form(
    ada: Visitor, path: str, status: int, code: str
) -> None:
    await ada.soft("v1")
    await ada.alias("v1")
    answer = await ada.get(path)
    assert answer.status_code == status
    assert code in answer.text
    assert "tie" not in Page(answer.text).fields


async def test_the_api_s_token_opens_no_page(stranger: Visitor) -> None:
    answer = await stranger.client.get(
        "/softprompts/", headers={"authorization": f"Bearer {ADMIN_TOKEN}", "origin": ORIGIN}
    )
    assert answer.status_code == 303
