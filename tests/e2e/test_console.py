"""The console on a real engine, in a real Chromium."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from console_pictures import chromium
from e2e.harness import Admin, Server
from playwright.sync_api import Page, expect

MILLISECONDS = 60_000
VERSIONS = ("v1", "v2")
expect.set_options(timeout=MILLISECONDS)


@pytest.fixture(scope="module")
def page(server: Server) -> Iterator[Page]:
    """The console, logged in."""
    with chromium() as browser, contextlib.closing(browser.new_context()) as context:
        context.set_default_timeout(MILLISECONDS)
        page = context.new_page()
        page.goto(f"{server.url}/softprompts/")
        page.get_by_label("Your name").fill("ada")
        page.get_by_label("Token").fill(server.token())
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(f"{server.url}/softprompts/")
        yield page


@pytest.fixture
def released(admin: Admin) -> Iterator[str]:
    """A prompt of this test's own, in the middle of a release."""
    prompt = "shown"
    for version in VERSIONS:
        admin.imported(prompt, version=version, kind="hard", text=f"You are {version}.")
    admin.alias(prompt, "production", "v1")
    arms = [{"version": "v1", "weight": 90}, {"version": "v2", "weight": 10}]
    put = admin.http.put(f"/prompts/{prompt}/rollout", json={"arms": arms})
    assert put.status_code == 200, put.text
    yield prompt
    for path in ("/rollout", "/aliases/production", *(f"/versions/{v}" for v in VERSIONS)):
        admin.http.delete(f"/prompts/{prompt}{path}")


def test_versions_are_shown_with_their_digests_where_they_are_resident(
    server: Server, page: Page, support: dict[str, dict[str, Any]]
) -> None:
    digest = support["v2"]["digest"]
    page.goto(f"{server.url}/softprompts/prompts/support")
    expect(page.locator("#versions tbody tr", has_text=digest[:12])).to_contain_text("v2")
    page.goto(f"{server.url}/softprompts/residency")
    held = page.locator("#workers tbody tr", has_text=digest[:12]).first
    expect(held).to_contain_text("support@v2")
    expect(held).to_contain_text("20")


def test_what_is_promoted_in_the_console_answers(
    server: Server, admin: Admin, page: Page, released: str
) -> None:
    page.goto(f"{server.url}/softprompts/prompts/{released}")
    page.get_by_role("link", name="Promote v2 …", exact=True).first.click()
    page.get_by_label("Why").fill("seen on a real engine")
    page.get_by_role("button", name="Promote v2", exact=True).click()
    expect(page.locator("#rollout")).to_contain_text("v2 100 % production")
    rollout = admin.http.get(f"/prompts/{released}/rollout").json()
    assert (rollout["state"], rollout["updated_by"]) == ("promoted", "console:ada")
    answer = server.client().chat.completions.create(
        model=released, messages=[{"role": "user", "content": "Hello"}], max_tokens=2
    )
    assert answer.model == f"{released}@v2"
