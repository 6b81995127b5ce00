"""The admin token: given, or generated once, readable by its owner alone."""

from __future__ import annotations

import base64
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from pydantic import SecretStr

from softprompt_serve.access.tokens import AccessToken, Keyring, mint
from softprompt_serve.errors import StartupRefused
from softprompt_serve.server.auth import (
    TOKEN_FILE,
    Doorkeeper,
    admin_token,
    presented,
    stored_token,
)
from softprompt_serve.settings import Settings

LENGTH_OF_32_BYTES = 43


def token_at(home: Path, _attempt: int = 0) -> str:
    return admin_token(Settings(home=home))


def test_the_token_in_the_settings_comes_first(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, admin_token="a-token-of-mine")
    assert admin_token(settings) == "a-token-of-mine"
    assert not (tmp_path / TOKEN_FILE).exists()


def test_a_generated_token_is_long_and_stays(tmp_path: Path) -> None:
    token = token_at(tmp_path / "new" / "home")
    assert len(token) >= LENGTH_OF_32_BYTES
    assert token_at(tmp_path / "new" / "home") == token


def test_a_generated_token_can_be_read_by_its_owner_alone(tmp_path: Path) -> None:
    token_at(tmp_path)
    assert (tmp_path / TOKEN_FILE).stat().st_mode & 0o777 == 0o600


def test_nothing_but_the_token_is_left_behind(tmp_path: Path) -> None:
    token_at(tmp_path)
    token_at(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [TOKEN_FILE]


def test_a_token_that_others_can_read_ends_the_start(tmp_path: Path) -> None:
    path = tmp_path / TOKEN_FILE
    path.write_text("a-token-of-mine\n")
    path.chmod(0o644)
    with pytest.raises(StartupRefused, match="chmod 600") as caught:
        token_at(tmp_path)
    assert caught.value.code == "admin_token_unsafe"


def test_a_token_written_by_hand_is_taken_without_its_newline(tmp_path: Path) -> None:
    path = tmp_path / TOKEN_FILE
    path.write_text("a-token-of-mine\n")
    path.chmod(0o600)
    assert token_at(tmp_path) == "a-token-of-mine"


def test_threads_that_start_at_once_agree_on_one_token(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        tokens = set(pool.map(partial(token_at, tmp_path), range(32)))
    assert tokens == {token_at(tmp_path)}


def test_processes_that_start_at_once_agree_on_one_token(tmp_path: Path) -> None:
    # The other processes know the installed package, but not this file.
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        tokens = set(pool.map(admin_token, [Settings(home=tmp_path)] * 8))
    assert tokens == {token_at(tmp_path)}


def test_a_client_on_this_machine_finds_the_token(tmp_path: Path) -> None:
    assert stored_token(Settings(home=tmp_path)) is None
    token = token_at(tmp_path)
    assert stored_token(Settings(home=tmp_path)) == token


def opens(header: str | None, token: str = "secret-1") -> bool:
    return Doorkeeper(lambda: token).grant(presented(header)) is not None


@pytest.mark.parametrize("header", ["Bearer secret-1", "bearer secret-1", "BEARER  secret-1 "])
def test_the_right_bearer_is_let_in(header: str) -> None:
    assert opens(header)


@pytest.mark.parametrize(
    "header",
    [
        *(None, "", "Bearer", "Bearer ", "secret-1", "Digest secret-1", "Basic secret-1"),
        *("Basic", "Basic !", "Basic dXNlcg", "Basic s\u00e9cret-1"),
    ],
)
def test_a_header_without_a_token_presents_none(header: str | None) -> None:
    assert not presented(header)
    assert not opens(header)


@pytest.mark.parametrize("given", ["secret-2", "secret-1x", "s\u00e9cret-1", "secret", "\udc80"])
def test_another_bearer_is_not(given: str) -> None:
    assert not opens(f"Bearer {given}")


def test_an_empty_token_lets_nobody_in() -> None:
    assert not opens("Bearer ", "")


def basic(pair: str) -> str:
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


@pytest.mark.parametrize("pair", ["softprompt:secret-1", ":secret-1", "user%40x:secret-1"])
def test_the_token_as_a_basic_password_is_let_in_whoever_the_user(pair: str) -> None:
    assert opens(basic(pair))


def test_a_basic_password_may_hold_colons() -> None:
    assert opens(basic("user:secret:1"), "secret:1")


@pytest.mark.parametrize("pair", ["secret-1:", "secret-1", "user:"])
def test_a_basic_header_without_a_password_presents_none(pair: str) -> None:
    assert not presented(basic(pair))


@pytest.mark.parametrize("pair", ["user:secret-2", "user:user:secret-1", "secret-1:secret"])
def test_another_basic_password_is_not(pair: str) -> None:
    assert not opens(basic(pair))


@pytest.mark.parametrize(("token", "guessable"), [("a" * 31, True), ("a" * 32, False)])
def test_a_short_token_of_the_settings_counts_as_one_that_can_be_guessed(
    token: str, guessable: bool
) -> None:
    feedback = SecretStr("also-short")
    grant = Doorkeeper(lambda: token, feedback).grant(token)
    assert grant is not None
    assert grant.guessable is guessable
    lesser = Doorkeeper(lambda: token, feedback).grant("also-short")
    assert lesser is not None
    assert (lesser.guessable, lesser.scopes) == (True, {"feedback"})


def test_a_token_of_the_catalogue_never_does() -> None:
    minted = mint()
    keyring = Keyring([AccessToken(minted.id, "ci", ("reader",), (), minted.sha256)])
    grant = Doorkeeper(lambda: "secret-1", keyring=lambda: keyring).grant(minted.text)
    assert grant is not None
    assert (grant.name, grant.guessable) == ("ci", False)
