"""References and salts: versions and users are kept apart, and nobody can forge either."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt_serve.errors import BadRequest
from softprompt_serve.vllm_plugin.reference import (
    KEY,
    Reference,
    check_pair,
    is_reserved,
    reference_in,
    salt_for,
)

PLACEHOLDER = 96

digests = st.binary(min_size=1, max_size=8).map(lambda data: hashlib.sha256(data).hexdigest())
# JSON may carry lone surrogates, which UTF-8 can't.
users = st.none() | st.text(st.characters(), max_size=300)
rows = st.integers(1, 40)


@given(digests, users)
def test_a_salt_is_short_and_in_our_name_space(digest: str, own: str | None) -> None:
    salt = salt_for(digest, own)
    assert len(salt) <= 128
    assert is_reserved(salt)


@given(digests, users)
def test_a_versions_repeats_share_their_salt(digest: str, own: str | None) -> None:
    assert salt_for(digest, own) == salt_for(digest, own)


@given(digests, digests, users, users)
def test_versions_never_share_a_salt(
    one: str, two: str, own: str | None, others: str | None
) -> None:
    assert (salt_for(one, own) == salt_for(two, others)) == ((one, own) == (two, others))


@given(digests, users, users)
def test_users_with_salts_of_their_own_never_share_one(
    digest: str, one: str | None, two: str | None
) -> None:
    assert (salt_for(digest, one) == salt_for(digest, two)) == (one == two)


@given(digests)
def test_a_user_can_not_make_the_salt_of_users_without_one(digest: str) -> None:
    plain = salt_for(digest, None)
    assert salt_for(digest, plain) != plain
    assert salt_for(digest, "") != plain


@given(st.text())
def test_only_our_name_space_is_reserved(salt: str) -> None:
    assert is_reserved(salt) == salt.startswith("sp:")


def test_no_salt_is_not_reserved() -> None:
    assert not is_reserved(None)


@given(digests, rows)
def test_a_reference_survives_its_way(digest: str, n: int) -> None:
    reference = Reference(digest, n)
    assert reference_in({"theirs": 1, KEY: reference.to_extra_args()}) == reference


@pytest.mark.parametrize("extra", [None, {}, {"theirs": 1}, {KEY: None}])
def test_a_request_without_our_key_refers_to_nothing(extra: dict[str, Any] | None) -> None:
    assert reference_in(extra) is None


@pytest.mark.parametrize(
    "value",
    [
        "v2",
        1,
        [],
        {},
        {"digest": "d"},
        {"rows": 2},
        {"digest": "d", "rows": 0},
        {"digest": "d", "rows": -1},
        {"digest": "d", "rows": "2"},
        {"digest": "d", "rows": 2.0},
        {"digest": 1, "rows": 2},
        {"digest": "d", "rows": 2, "more": 1},
    ],
)
def test_anything_else_under_our_key_is_refused(value: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        reference_in({KEY: value})
    assert caught.value.code == "reserved_vllm_xargs"


@given(digests, users, rows, st.lists(st.integers(0, 95), max_size=8))
def test_what_the_server_makes_is_accepted(
    digest: str, own: str | None, n: int, visible: list[int]
) -> None:
    salt = salt_for(digest, own)
    check_pair(Reference(digest, n), salt, [PLACEHOLDER] * n + visible, PLACEHOLDER)


@given(st.text(max_size=20).filter(lambda salt: not salt.startswith("sp:")))
def test_a_users_own_salt_without_a_reference_is_accepted(salt: str) -> None:
    check_pair(None, salt, [1, 2], PLACEHOLDER)


def refused(reference: Reference | None, salt: str | None, ids: list[int] | None) -> str | None:
    with pytest.raises(BadRequest) as caught:
        check_pair(reference, salt, ids, PLACEHOLDER)
    assert caught.value.code == "softprompt_mismatch"
    return caught.value.param


@given(digests, users)
def test_a_salt_of_ours_without_a_reference_is_refused(digest: str, own: str | None) -> None:
    assert refused(None, salt_for(digest, own), [PLACEHOLDER]) == "cache_salt"


@given(digests, digests, users)
def test_a_reference_with_another_versions_salt_is_refused(
    one: str, two: str, own: str | None
) -> None:
    if one != two:
        assert refused(Reference(one, 1), salt_for(two, own), [PLACEHOLDER]) == "cache_salt"


@pytest.mark.parametrize("salt", [None, "", "sp:", "sp:" + "ab" * 16 + "x", "sp:" + "ab" * 15])
def test_a_reference_with_a_salt_that_nearly_matches_is_refused(salt: str | None) -> None:
    assert refused(Reference("ab" * 32, 1), salt, [PLACEHOLDER]) == "cache_salt"


@given(digests, rows, st.data())
def test_a_reference_whose_placeholders_do_not_lead_is_refused(
    digest: str, n: int, data: st.DataObject
) -> None:
    ids = [PLACEHOLDER] * n
    ids[data.draw(st.integers(0, n - 1))] = 7
    assert refused(Reference(digest, n), salt_for(digest, None), ids) == "prompt"


@pytest.mark.parametrize("ids", [None, [], [PLACEHOLDER]])
def test_a_reference_to_more_rows_than_there_are_tokens_is_refused(ids: list[int] | None) -> None:
    assert refused(Reference("ab" * 32, 2), salt_for("ab" * 32, None), ids) == "prompt"
