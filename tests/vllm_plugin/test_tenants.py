"""A request's salt by tenant: what it makes of vLLM's own block hashes, and when it is set."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.datastructures import Headers

from softprompt_serve.access.scopes import Grant
from softprompt_serve.server.scope import RequestScope
from softprompt_serve.vllm_plugin.reference import Reference, check_pair, salt_for
from softprompt_serve.vllm_plugin.tenants import Tenants

DIGEST = "ab" * 32


def salted(by: str, *, salt: str | None = None, caller: str = "", **headers: str) -> str | None:
    scope = RequestScope("/v1/completions", Headers(headers))
    if caller:
        scope.caller = Grant("one", frozenset({"caller"}), (), caller)
    request = SimpleNamespace(cache_salt=salt)
    Tenants(by).salt(request, scope)
    found: str | None = request.cache_salt
    return found


def test_off_leaves_a_request_as_it_is() -> None:
    assert salted("off") is None
    assert salted("off", salt="mine") == "mine"


def test_a_header_tells_tenants_apart() -> None:
    by = "header:X-Tenant"
    assert salted(by, **{"x-tenant": "a"}) == salted(by, **{"x-tenant": "a"})
    assert salted(by, **{"x-tenant": "a"}) != salted(by, **{"x-tenant": "b"})
    assert salted(by) == salted(by, **{"x-tenant": ""})


def test_a_token_does_also_after_it_was_rotated() -> None:
    before = salted("token", caller="0123456789ab", authorization="Bearer spt_old")
    assert before == salted("token", caller="0123456789ab", authorization="Bearer spt_new")
    assert before != salted("token", caller="ba9876543210", authorization="Bearer spt_old")


def test_without_tokens_of_ours_the_key_that_is_shown_does() -> None:
    assert salted("token", authorization="Bearer a") != salted("token", authorization="Bearer b")
    assert salted("token", **{"x-api-key": "a"}) != salted("token")


def test_a_request_that_is_rendered_again_keeps_its_salt() -> None:
    scope, request = RequestScope("/v1/responses"), SimpleNamespace(cache_salt="mine")
    tenants = Tenants("token")
    tenants.salt(request, scope)
    first = request.cache_salt
    tenants.salt(request, scope)
    assert request.cache_salt == first


def test_the_salt_of_another_tenant_can_not_be_sent() -> None:
    theirs = salted("header:x-tenant", **{"x-tenant": "a"})
    assert salted("header:x-tenant", salt=theirs, **{"x-tenant": "b"}) != theirs


def test_a_versions_salt_goes_with_it() -> None:
    salt = salt_for(DIGEST, salted("token", authorization="Bearer a"))
    check_pair(Reference(DIGEST, 2), salt, [0, 0, 5], 0)
    assert len(salt) <= 128


@pytest.mark.parametrize("soft", [False, True])
def test_tenants_share_no_block_and_one_shares_its_own(
    make_request: Callable[..., Any], soft: bool
) -> None:
    def blocks(tenant: str) -> list[Any]:
        own = salted("header:x-tenant", **{"x-tenant": tenant})
        salt = salt_for(DIGEST, own) if soft else own
        return list(make_request(tenant, list(range(16)), salt).block_hashes)

    one, other = blocks("a"), blocks("b")
    assert len(one) == 4
    assert not set(one) & set(other)
    assert one == blocks("a")
