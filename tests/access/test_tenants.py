from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from softprompt_serve.access.tenants import tenant_salt

texts = st.text(max_size=40)
salts = st.none() | texts


@given(texts, salts, texts, salts)
def test_tenants_never_share_a_salt_whatever_they_send(
    one: str, ones: str | None, other: str, others: str | None
) -> None:
    same = (one, ones) == (other, others)
    assert (tenant_salt(one, ones) == tenant_salt(other, others)) == same


@given(st.text(st.characters(), max_size=20), salts)
def test_a_salt_is_one_that_vllm_takes_and_none_of_ours(tenant: str, users: str | None) -> None:
    assert re.fullmatch(r"t:[0-9a-f]{32}", tenant_salt(tenant, users))


def test_a_length_cannot_be_moved_from_a_tenant_to_its_salt() -> None:
    assert tenant_salt("a", "b") != tenant_salt("a\0b", None)
    assert tenant_salt("a", None) != tenant_salt("a", "")
