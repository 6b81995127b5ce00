from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt_serve.access.tokens import AccessToken, Keyring, mark_of, mint, sha256_of

MINTED = mint()
TOKEN = AccessToken(MINTED.id, "ci", ("publisher",), (), MINTED.sha256)
NOW = 1_790_000_000.0


def test_no_two_are_alike_and_each_names_itself() -> None:
    made = [mint() for _ in range(100)]
    assert len({token.text for token in made}) == 100
    assert all(token.text.startswith(f"spt_{token.id}_") for token in made)


def test_a_secret_has_256_bits() -> None:
    assert len(MINTED.text.removeprefix(f"spt_{MINTED.id}_")) == 43  # of 6 bits each


def test_neither_its_text_nor_its_hash_is_in_what_is_printed_of_it() -> None:
    assert MINTED.text not in repr(MINTED)
    assert MINTED.sha256 not in repr(TOKEN)


def test_a_text_opens_what_its_token_is_for() -> None:
    grant = Keyring([TOKEN]).find(MINTED.text, NOW)
    assert grant is not None
    assert (grant.name, grant.id, grant.scopes) == ("ci", MINTED.id, {"publisher", "reader"})


@given(st.text(max_size=600))
def test_whatever_else_is_presented_opens_nothing(text: str) -> None:
    assert Keyring([TOKEN]).find(text, NOW) is None


def test_a_hash_is_no_token() -> None:
    assert Keyring([TOKEN]).find(TOKEN.sha256, NOW) is None


@pytest.mark.parametrize(("after", "accepted"), [(-1, True), (0, False), (1, False)])
def test_a_token_ends(after: int, accepted: bool) -> None:
    keyring = Keyring([replace(TOKEN, expires_at=NOW)])
    assert (keyring.find(MINTED.text, NOW + after) is not None) is accepted


def test_a_revoked_one_is_not_on_the_ring() -> None:
    keyring = Keyring([replace(TOKEN, revoked_at="2026-01-01T00:00:00.000Z")])
    assert (keyring.find(MINTED.text, NOW), len(keyring)) == (None, 0)


def test_the_one_before_a_rotation_is_accepted_as_long_as_was_said() -> None:
    old = mint(MINTED.id)
    keyring = Keyring(
        [replace(TOKEN, previous_sha256=sha256_of(old.text), previous_until=NOW + 60)]
    )
    assert keyring.find(old.text, NOW + 59) is not None
    assert keyring.find(old.text, NOW + 60) is None
    assert keyring.find(MINTED.text, NOW + 60) is not None


def test_a_mark_ends_with_a_rotation_or_a_revocation() -> None:
    mark = mark_of(TOKEN)
    assert Keyring([TOKEN]).by_mark(mark, NOW) is not None
    assert Keyring([replace(TOKEN, sha256=mint().sha256)]).by_mark(mark, NOW) is None
    assert Keyring().by_mark(mark, NOW) is None
    assert Keyring([TOKEN]).by_mark(f"{TOKEN.id}-", NOW) is None
    assert TOKEN.sha256[:16] not in mark
