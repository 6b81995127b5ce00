"""The console in a real Chromium: what a person does, and that nothing is refused on the way."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from console_pictures import chromium
from console_scene import Scene, judged, midway, served
from playwright.sync_api import Browser, BrowserContext, Page, expect

from softprompt_serve.testing import ADMIN_TOKEN

MILLISECONDS = 30_000
ANSWERS = 1200
INSIDE = "console.test"  # a name of no machine that browsers trust, unlike localhost

pytestmark = pytest.mark.timeout(300)
expect.set_options(timeout=MILLISECONDS)

Open = Callable[..., "Tab"]


class Tab:
    """A page with a session of its own, and what Chromium complained about."""

    def __init__(self, url: str, context: BrowserContext) -> None:
        self.url = f"{url}/softprompts"
        self.context = context
        self.complaints: list[str] = []
        self.asked: list[str] = []
        context.set_default_timeout(MILLISECONDS)
        context.on("request", lambda request: self.asked.append(request.url))
        context.on("console", lambda told: self.complaints.append(f"{told.type}: {told.text}"))
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        self.page: Page = context.new_page()

    def log_in(self, name: str = "ada", token: str = ADMIN_TOKEN) -> None:
        self.page.goto(f"{self.url}/login")
        self.page.get_by_label("Your name").fill(name)
        self.page.get_by_label("Token").fill(token)
        self.page.get_by_role("button", name="Log in").click()

    def open(self, path: str) -> None:
        self.page.goto(f"{self.url}{path}")

    def click(self, name: str) -> None:
        self.page.get_by_role("link", name=name, exact=True).first.click()

    def confirm(self, button: str, why: str = "") -> None:
        self.page.get_by_label("Why").fill(why)
        self.page.get_by_role("button", name=button, exact=True).click()

    def sees(self, text: str | re.Pattern[str], within: str = "main") -> None:
        expect(self.page.locator(within)).to_contain_text(text)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium(f"--host-resolver-rules=MAP {INSIDE} 127.0.0.1") as found:
        yield found


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """`support` is in the second of three steps; its v3 gets 10 %."""
    with served(tmp_path) as found:
        midway(found, ANSWERS)
        yield found


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Scene]:
    """Policies are enforced: `support`'s v2 fails two gates of five, v3 none."""
    with served(tmp_path, promotion_gates="enforce") as found:
        judged(found)
        yield found


@pytest.fixture
def tab(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Open]:
    """Opens tabs; at the end Chromium must have had nothing to complain about."""
    wanted = "guarded" if "guarded" in request.fixturenames else "scene"
    scene: Scene = request.getfixturevalue(wanted)
    with contextlib.ExitStack() as stack:
        tabs = []

        def open_one(url: str = scene.url, **options: object) -> Tab:
            context = browser.new_context(**options)
            stack.callback(context.close)
            tabs.append(Tab(url, context))
            return tabs[-1]

        yield open_one
        for one in tabs:
            assert one.complaints == []
            assert {urlsplit(asked).netloc for asked in one.asked} <= {urlsplit(one.url).netloc}


def test_a_person_logs_in_sees_the_rollout_and_promotes_it(tab: Open, scene: Scene) -> None:
    ada = tab()
    ada.log_in()
    ada.sees("progressing")
    ada.click("support")
    ada.sees("v3 10 % candidate", "#rollout")
    ada.sees(scene.service.find_version("support", "v3").digest[:12], "#versions")
    ada.click("Promote v3 …")
    ada.sees("Promote v3 of support?")
    ada.confirm("Promote v3", "all gates hold")
    ada.sees("Promoted.")
    ada.sees("v3 100 % production", "#rollout")
    rollout = scene.rollout("support")
    assert (rollout["state"], rollout["production"]) == ("promoted", "v3")
    assert (rollout["updated_by"], rollout["reason"][:14]) == ("console:ada", "all gates hold")


def test_a_wrong_token_is_told_and_the_right_one_still_works(
    browser: Browser, scene: Scene
) -> None:
    with contextlib.closing(browser.new_context()) as context:
        eve = Tab(scene.url, context)
        eve.log_in(token="a-wrong-token")
        eve.sees("That is no token of this server that may read.")
        eve.log_in()
        eve.sees("progressing")
        # Chromium tells of each 401, and has nothing else to tell.
        assert all("401" in told for told in eve.complaints)
        assert not [asked for asked in eve.asked if "token" in urlsplit(asked).query]


def test_a_rollout_is_paused_resumed_and_rolled_back(tab: Open, scene: Scene) -> None:
    ada = tab()
    ada.log_in()
    ada.sees("progressing")
    ada.open("/prompts/support")
    for link, button, state in (
        ("Pause …", "Pause", "paused"),
        ("Resume …", "Resume", "progressing"),
        ("Roll back …", "Roll back to v2", "rolled_back"),
    ):
        ada.click(link)
        ada.confirm(button)
        ada.page.wait_for_url("**/prompts/support?done=*")
        assert scene.rollout("support")["state"] == state
    ada.sees("v2 100 % production", "#rollout")


def test_a_confirmation_that_is_out_of_date_changes_nothing(browser: Browser, scene: Scene) -> None:
    with contextlib.closing(browser.new_context()) as context:
        ada = Tab(scene.url, context)
        ada.log_in()
        ada.sees("progressing")
        ada.open("/prompts/support/promote")
        scene.call("POST", "/prompts/support/rollout/pause")
        before = scene.rollout("support")
        ada.confirm("Promote v3")
        ada.sees("Nothing was changed.")
        after = scene.rollout("support")
        assert (after["generation"], after["weights"]) == (before["generation"], before["weights"])
        ada.confirm("Promote v3")  # what is shown now may be confirmed
        ada.sees("Promoted.")
        assert all("412" in told for told in ada.complaints)


def test_a_form_of_another_session_changes_nothing(browser: Browser, scene: Scene) -> None:
    with contextlib.closing(browser.new_context()) as context:
        ada = Tab(scene.url, context)
        ada.log_in()
        ada.sees("progressing")
        ada.open("/prompts/support/promote")
        ada.page.locator('main input[name="form"]').evaluate("field => { field.value = 'forged' }")
        ada.confirm("Promote v3")
        ada.sees("nothing was changed")
        assert scene.rollout("support")["state"] == "progressing"


def test_another_site_s_page_changes_nothing(browser: Browser, scene: Scene) -> None:
    with contextlib.closing(browser.new_context()) as context:
        ada = Tab(scene.url, context)
        ada.log_in()
        ada.sees("progressing")
        ada.open("/prompts/support/promote")
        fields = ada.page.locator("main form input").evaluate_all(
            "fields => fields.map(field => [field.name, field.value])"
        )
        form = "".join(f'<input name="{name}" value="{value}">' for name, value in fields)
        elsewhere = scene.url.replace("127.0.0.1", "localhost")
        evil = f"<form method=post action='{ada.url}/prompts/support/promote'>{form}<button>x"
        context.route(
            f"{elsewhere}/evil", lambda route: route.fulfill(body=evil, content_type="text/html")
        )
        ada.page.goto(f"{elsewhere}/evil")
        ada.page.get_by_role("button").click()
        ada.sees(re.compile("did not come from a page of the console|Log in"))
        assert scene.rollout("support")["state"] == "progressing"


def test_what_changes_is_shown_without_a_reload_and_keeps_its_place(
    tab: Open, scene: Scene
) -> None:
    ada = tab()
    ada.log_in()
    ada.sees("progressing")
    ada.open("/prompts/support")
    ada.page.evaluate("window.stayed = true")
    ada.page.locator("#record-of-v3 summary").click()
    ada.page.locator("#record-of-v3 summary").focus()
    expect(ada.page.locator("#rollout time").first).to_contain_text("ago")
    scene.call("POST", "/prompts/support/rollout/pause", json={"reason": "Looked at by hand."})
    scene.soft("support", "v5")
    ada.page.evaluate("window.told = document.getElementById('told')")
    ada.sees("Looked at by hand.", "#rollout")
    ada.sees("Rollout paused", "#told")
    # It is the same element still: one that is new is not read out.
    assert ada.page.evaluate("window.told === document.getElementById('told')")
    expect(ada.page.get_by_role("link", name="Resume …")).to_be_visible()
    expect(ada.page.locator("#record-of-v5")).to_be_attached()
    expect(ada.page.locator("#record-of-v3")).to_have_attribute("open", "")
    assert ada.page.evaluate("window.stayed") is True


def test_a_server_that_is_gone_is_said_to_be_gone(browser: Browser, scene: Scene) -> None:
    with contextlib.closing(browser.new_context()) as context:
        ada = Tab(scene.url, context)
        ada.log_in()
        ada.sees("progressing")
        context.set_offline(True)
        ada.sees("The server can't be reached.", "#connection")
        context.set_offline(False)
        expect(ada.page.locator("#connection")).to_be_hidden()


def test_a_tab_that_nobody_looks_at_asks_for_nothing(tab: Open) -> None:
    ada = tab()
    ada.log_in()
    ada.sees("progressing")
    ada.page.evaluate(
        """() => {
            Object.defineProperty(document, "hidden", { value: true, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }"""
    )
    ada.page.wait_for_timeout(500)  # what was on its way
    before = len(ada.asked)
    ada.page.wait_for_timeout(5000)
    assert len(ada.asked) == before
    ada.page.evaluate(
        """() => {
            Object.defineProperty(document, "hidden", { value: false, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }"""
    )
    with ada.page.expect_response("**/softprompts/"):
        pass


def test_a_session_that_is_over_leads_to_the_login(browser: Browser, scene: Scene) -> None:
    with contextlib.closing(browser.new_context()) as context:
        ada = Tab(scene.url, context)
        ada.log_in()
        ada.sees("progressing")
        ada.open("/audit")
        context.clear_cookies()
        ada.page.wait_for_url("**/login?next=*", timeout=MILLISECONDS)


def test_all_of_it_works_without_javascript(tab: Open, scene: Scene) -> None:
    ada = tab(java_script_enabled=False)
    ada.log_in()
    for link in ("Residency", "Audit", "Prompts", "support"):
        ada.click(link)
    ada.sees("UTC", "#rollout")
    ada.page.locator("#record-of-v3 summary").click()
    ada.sees("learning_rate", "#record-of-v3")
    ada.click("Promote v3 …")
    ada.confirm("Promote v3")
    ada.sees("Promoted.")
    assert scene.rollout("support")["production"] == "v3"
    ada.page.get_by_role("button", name="Log out").click()
    ada.sees("Log in")
    ada.open("/prompts/support")
    ada.sees("Log in")


def test_over_plain_http_it_works_as_well(browser: Browser, scene: Scene) -> None:
    """Chromium sends no Sec-Fetch-Site there, so that Origin has to do."""
    with contextlib.closing(browser.new_context()) as context:
        ada = Tab(f"http://{INSIDE}:{urlsplit(scene.url).port}", context)
        ada.log_in()
        ada.sees("progressing")
        ada.open("/prompts/support")
        ada.click("Pause …")
        with ada.page.expect_request("**/pause") as sent:
            ada.confirm("Pause")
        ada.sees("Paused.")
        assert "sec-fetch-site" not in sent.value.all_headers()
        assert scene.rollout("support")["state"] == "paused"
        assert not [told for told in ada.complaints if "Content Security Policy" in told]


def test_it_fits_a_telephone(tab: Open) -> None:
    ada = tab(viewport={"width": 390, "height": 800})
    ada.log_in()
    ada.sees("progressing")
    for path in ("/", "/prompts/support", "/prompts/support/promote", "/residency", "/audit"):
        ada.open(path)
        wide = ada.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390, path


def test_it_can_be_walked_through_by_keyboard(tab: Open) -> None:
    ada = tab()
    ada.log_in()
    ada.sees("progressing")
    ada.open("/prompts/support")
    ada.page.keyboard.press("Tab")
    expect(ada.page.locator(":focus")).to_have_text("Skip to content")
    ada.page.keyboard.press("Enter")
    for _ in range(2):
        ada.page.keyboard.press("Tab")
    expect(ada.page.locator(":focus")).to_have_text("Promote v3 …")
    ada.page.wait_for_timeout(5000)  # parts were replaced meanwhile, this one perhaps
    expect(ada.page.locator(":focus")).to_have_text("Promote v3 …")
    ada.page.keyboard.press("Enter")
    ada.sees("Promote v3 of support?")


@pytest.mark.parametrize("scripts", [True, False])
def test_gates_that_fail_are_seen_before_and_can_be_forced(
    tab: Open, guarded: Scene, scripts: bool
) -> None:
    ada = tab(java_script_enabled=scripts)
    ada.log_in()
    ada.sees("support")
    ada.open("/prompts/support/promote")
    ada.sees("This promotion will be refused", ".judged")
    ada.sees("hold exact_match on support-ood", ".fails >> nth=0")
    ada.sees("v2 has to come down to", ".fails >> nth=1")
    expect(ada.page.locator(".gates").last).to_be_hidden()
    ada.page.get_by_text("3 gates pass").click()
    expect(ada.page.get_by_text("win exact_match on support-test")).to_be_visible()
    ada.confirm("Force v2 past 2 gates")  # the browser itself asks for box and reason
    assert guarded.rollout("support")["production"] == "v1"
    ada.page.get_by_label("Promote v2 although it fails 2 gates").check()
    ada.confirm("Force v2 past 2 gates", "An outage leaves us no choice.")
    ada.sees("Promoted.")
    assert guarded.rollout("support")["production"] == "v2"


def test_what_passes_its_gates_needs_no_force(tab: Open, guarded: Scene) -> None:
    ada = tab(viewport={"width": 390, "height": 800})
    ada.log_in()
    ada.sees("support")
    ada.open("/prompts/support/promote?version=v3")
    ada.sees("all 5 pass", ".judged")
    assert ada.page.evaluate("document.documentElement.scrollWidth") <= 390
    ada.confirm("Promote v3")
    ada.sees("Promoted.")
    assert guarded.rollout("support")["production"] == "v3"


def test_what_users_wrote_runs_nowhere(tab: Open, scene: Scene) -> None:
    ada = tab()
    ada.log_in()
    ada.sees("progressing")
    markup = "<img src=x onerror=document.title='run'><script>document.title='run'</script>"
    scene.call("POST", "/prompts/support/rollout/pause", json={"reason": markup})
    scene.call(
        "PUT", "/prompts/support/aliases/odd", json={"version": "v1"}, params={"actor": markup}
    )
    for path in ("/prompts/support", "/audit"):
        ada.open(path)
        ada.sees(markup)
        ada.page.wait_for_timeout(3000)  # a refresh, by script
        assert "run" not in ada.page.title()


def test_a_gate_that_breaks_is_seen(tab: Open, scene: Scene) -> None:
    scene.roll_out(
        "triage",
        {
            "arms": [{"version": "v1", "weight": 100}, {"version": "v2", "weight": 0}],
            "steps": [{"weight": 50, "min_requests": 100_000}],
            "gates": [{"metric": "error_rate", "max": 0.05}],
        },
    )
    scene.until("triage", lambda seen: seen["step"] is not None)
    ada = tab()
    ada.log_in()
    ada.sees("progressing")
    ada.open("/prompts/triage")
    ada.sees("step 1 of 1", "#rollout")
    scene.count("triage", "v2", 1000, failing=0.2)
    ada.sees("rolled back", "#rollout")
    ada.sees("is broken", "#rollout")
    ada.sees("rollout.rolled_back", "#audit")
