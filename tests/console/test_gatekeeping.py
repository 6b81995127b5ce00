from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt_serve.console.gatekeeping import (
    FORM_BYTES,
    CrossSite,
    Throttle,
    check_origin,
    check_reader,
    read_form,
    safe_next,
)
from softprompt_serve.errors import BadRequest, TooLarge

PAGES = [
    "/softprompts/",
    "/softprompts/audit?prompt=support&before=3",
    "/softprompts/residency",
    "/softprompts/prompts/support",
    "/softprompts/prompts/support/promote?version=v2",
]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_of_the_console_is_where_one_goes_after_a_login(page: str) -> None:
    assert safe_next(page) == page


@pytest.mark.parametrize(
    "elsewhere",
    [
        None,
        "",
        "https://evil.test/softprompts/",
        "//evil.test/softprompts/",
        "/softprompts//evil.test",
        "/softprompts/../v1/models",
        "/softprompts/%2e%2e/v1/models",
        "/softprompts/v1/prompts",
        "/softprompts/logout",
        "/softprompts/prompts/../../x",
        "/softprompts/\\evil.test",
        "/softprompts/\r\nset-cookie:x",
        "/softprompts/audit\n",
        "javascript:alert(1)",
    ],
)
def test_anything_else_leads_to_the_first_page(elsewhere: str | None) -> None:
    assert safe_next(elsewhere) == "/softprompts/"


@given(st.text(max_size=80) | st.text(max_size=40).map("/softprompts/".__add__))
def test_no_text_leads_out_of_the_console(text: str) -> None:
    target = urlsplit(urljoin("https://server/softprompts/login", safe_next(text)))
    assert (target.scheme, target.netloc) == ("https", "server")
    assert target.path.startswith("/softprompts/")
    assert not target.path.startswith("/softprompts/v1")


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "same-origin", "origin": "https://public", "host": "inside:8000"},
        {"origin": "http://server:8000", "host": "server:8000"},
        {"origin": "https://Server", "host": "server"},
    ],
)
def test_what_a_page_of_ours_sends_is_believed(headers: dict[str, str]) -> None:
    check_origin(headers)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"host": "server"},
        {"origin": "null", "host": "server"},
        {"origin": "http://evil.test", "host": "server"},
        {"origin": "http://server.evil.test", "host": "server"},
        {"origin": "http://server:1", "host": "server:8000"},
        {"sec-fetch-site": "cross-site", "origin": "http://server", "host": "server"},
        {"sec-fetch-site": "same-site", "origin": "http://server", "host": "server"},
        {"sec-fetch-site": "none", "origin": "http://server", "host": "server"},
    ],
)
def test_what_comes_from_elsewhere_is_not(headers: dict[str, str]) -> None:
    with pytest.raises(CrossSite):
        check_origin(headers)


def test_a_link_on_another_site_may_lead_here() -> None:
    check_reader({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"})
    check_reader({})


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_script_of_another_origin_may_not_read(site: str) -> None:
    with pytest.raises(CrossSite):
        check_reader({"sec-fetch-site": site, "sec-fetch-mode": "cors"})


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@pytest.mark.anyio
async def test_a_form_is_read_and_the_first_of_two_values_counts() -> None:
    form = await read_form(chunks(b"token=a%2Bb&na", b"me=ada+l&token=z&empty="))
    assert form == {"token": "a+b", "name": "ada l", "empty": ""}


@pytest.mark.anyio
async def test_a_form_that_is_too_large_is_not_read_to_its_end() -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1024

    with pytest.raises(TooLarge):
        await read_form(endless())
    assert await read_form(chunks(b"a=" + b"x" * (FORM_BYTES - 2)))


@pytest.mark.anyio
@pytest.mark.parametrize("body", [b"\xff=1", b"a=%ff", b"&".join([b"a=1"] * 21)])
async def test_a_form_that_makes_no_sense_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        await read_form(chunks(body))


@pytest.mark.anyio
async def test_only_so_many_guesses_wait_at_once() -> None:
    throttle = Throttle(seconds=0.05, most=2)
    waited = await asyncio.gather(*(throttle.punish() for _ in range(5)))
    assert waited == [True, True, False, False, False]
    assert await throttle.punish()


@pytest.mark.anyio
async def test_a_guesser_that_goes_away_makes_room() -> None:
    throttle = Throttle(seconds=60.0, most=1)
    guess = asyncio.create_task(throttle.punish())
    await asyncio.sleep(0)
    assert not await throttle.punish()
    guess.cancel()
    await asyncio.gather(guess, return_exceptions=True)
    assert throttle._waiting == 0
