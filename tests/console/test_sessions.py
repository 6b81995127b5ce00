from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt_serve.console.sessions import MOST_NAME_CHARS, Session, Sessions, check_name

SESSIONS = Sessions("a-token-for-tests")
OTHERS = Sessions("another-token")
NOW = 1_790_000_000.0

names = st.text(string.ascii_letters + string.digits + " ._@+-", max_size=MOST_NAME_CHARS).map(
    str.strip
)


def begun(name: str = "ada", seconds: float = 60.0) -> tuple[Session, str]:
    return SESSIONS.begin(name, now=NOW, seconds=seconds)


@given(names)
def test_a_session_is_read_from_its_cookie_as_it_began(name: str) -> None:
    session, cookie = begun(name)
    assert SESSIONS.read(cookie, now=NOW) == session


@given(names)
def test_a_cookie_holds_nothing_that_a_browser_would_change(name: str) -> None:
    _, cookie = begun(name)
    assert set(cookie) <= set(string.ascii_letters + string.digits + "._-")


@given(st.data())
def test_a_cookie_that_was_changed_anywhere_is_none(data: st.DataObject) -> None:
    _, cookie = begun()
    at = data.draw(st.integers(0, len(cookie) - 1))
    other = data.draw(st.characters(min_codepoint=33, max_codepoint=126).filter(cookie[at].__ne__))
    assert SESSIONS.read(cookie[:at] + other + cookie[at + 1 :], now=NOW) is None


@given(st.text(max_size=600))
def test_whatever_is_sent_as_a_cookie_is_no_session_and_no_error(cookie: str) -> None:
    assert SESSIONS.read(cookie, now=NOW) is None


def test_without_a_cookie_there_is_no_session() -> None:
    assert SESSIONS.read(None, now=NOW) is None


def test_a_session_ends() -> None:
    _, cookie = begun(seconds=60)
    assert SESSIONS.read(cookie, now=NOW + 59) is not None
    assert SESSIONS.read(cookie, now=NOW + 60) is None


def test_another_token_reads_no_session_of_this_one() -> None:
    _, cookie = begun()
    assert OTHERS.read(cookie, now=NOW) is None


def test_another_server_with_the_same_token_does() -> None:
    session, cookie = begun()
    assert Sessions("a-token-for-tests").read(cookie, now=NOW) == session


def test_a_form_is_one_sessions_own() -> None:
    mine, theirs = begun()[0], begun()[0]
    assert SESSIONS.owns(mine, SESSIONS.form_token(mine))
    assert not SESSIONS.owns(mine, SESSIONS.form_token(theirs))
    assert not SESSIONS.owns(mine, OTHERS.form_token(mine))
    assert not SESSIONS.owns(mine, "")


def test_a_form_token_is_no_cookie() -> None:
    session, cookie = begun()
    value = cookie.rpartition(".")[0]
    assert SESSIONS.read(f"{value}.{SESSIONS.form_token(session)}", now=NOW) is None


def test_the_actor_says_that_it_was_the_console_and_who() -> None:
    assert begun("ada")[0].actor == "console:ada"
    assert begun("")[0].actor == "console"


@pytest.mark.parametrize("name", ["ada", " Ada Lovelace ", "ada@example.org", "ci-1", "a" * 40])
def test_names_that_are_taken(name: str) -> None:
    assert check_name(name) == name.strip()


@pytest.mark.parametrize("name", ["<b>", "a\nb", "-a", "é", "a" * 41, "a\x00", "a:b", "\u202ea"])
def test_names_that_are_not(name: str) -> None:
    assert check_name(name) is None
