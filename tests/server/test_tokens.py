"""Tokens over the API: shown once, rotated, revoked, and seen by every replica."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from server.answers import V1, code_of

from softprompt_serve.access.tokens import sha256_of
from softprompt_serve.registry.access import AccessTokens
from softprompt_serve.registry.catalog import Catalogue
from softprompt_serve.registry.database import url_of
from softprompt_serve.registry.snapshot import EMPTY
from softprompt_serve.server.door import Used
from softprompt_serve.server.token_uses import TokenUses

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    import httpx

    Serve = Callable[..., AbstractAsyncContextManager[Any]]

pytestmark = pytest.mark.anyio

TOKENS = f"{V1}/tokens"


async def create(api: Any, name: str = "ci", **given: Any) -> httpx.Response:
    answer: httpx.Response = await api.client.post(
        TOKENS, json={"name": name, "scopes": ["reader"], **given}
    )
    return answer


async def opens(api: Any, token: str) -> bool:
    headers = {"authorization": f"Bearer {token}"}
    answer = await api.client.get(f"{V1}/prompts", headers=headers)
    assert answer.status_code in {200, 401}
    return bool(answer.status_code == 200)


def everything(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())


async def test_a_new_token_opens_what_it_is_for(serve: Serve) -> None:
    async with serve() as api:
        answer = await create(api)
        assert answer.status_code == 201
        assert answer.headers["cache-control"] == "no-store"
        made = answer.json()
        assert made["token"].startswith(f"spt_{made['id']}_")
        assert await opens(api, made["token"])
        assert not await opens(api, made["token"][:-1])


async def test_a_tokens_text_is_nowhere_but_in_the_answer_that_made_it(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    async with serve() as api:
        token = (await create(api)).json()["token"]
        rotated = (await api.client.post(f"{TOKENS}/ci/rotate", json={})).json()["token"]
        said = [
            (await api.client.get(path)).text
            for path in (TOKENS, f"{V1}/audit", f"{V1}/server", f"{V1}/prompts")
        ]
        await opens(api, rotated)
    kept = everything(tmp_path)
    for text in (token, rotated, token.rpartition("_")[2], rotated.rpartition("_")[2]):
        assert text not in "".join(said)
        assert text not in caplog.text
        assert text.encode() not in kept
    for text in (token, rotated):
        assert sha256_of(text) not in "".join(said)


async def test_changes_of_tokens_are_in_the_audit(serve: Serve) -> None:
    async with serve() as api:
        made = (await create(api, prompts=["support"])).json()
        await api.client.post(f"{TOKENS}/ci/rotate")
        await api.client.delete(f"{TOKENS}/ci?actor=ada")
        changes = (await api.client.get(f"{V1}/audit")).json()["data"]
        assert [(entry["action"], entry["subject"]) for entry in changes] == [
            ("token.revoked", "ci"),
            ("token.rotated", "ci"),
            ("token.created", "ci"),
        ]
        assert changes[0]["actor"] == "ada"
        assert changes[2]["detail"] == {
            "id": made["id"],
            "scopes": ["reader"],
            "prompts": ["support"],
            "expires_at": None,
        }


async def test_a_revoked_token_opens_nothing_and_its_name_is_not_used_again(serve: Serve) -> None:
    async with serve() as api:
        token = (await create(api)).json()["token"]
        answer = await api.client.delete(f"{TOKENS}/ci")
        assert (answer.status_code, answer.json()["revoked_at"] is not None) == (200, True)
        assert not await opens(api, token)
        again = await create(api)
        assert (again.status_code, code_of(again)) == (409, "token_exists")
        for method, path in (("POST", "/ci/rotate"), ("DELETE", "/ci")):
            late = await api.client.request(method, f"{TOKENS}{path}")
            assert (late.status_code, code_of(late)) == (409, "token_revoked")


async def test_a_rotation_ends_the_former_text_at_once(serve: Serve) -> None:
    async with serve() as api:
        before = (await create(api)).json()["token"]
        after = (await api.client.post(f"{TOKENS}/ci/rotate")).json()["token"]
        assert (await opens(api, before), await opens(api, after)) == (False, True)


async def test_or_after_a_grace_that_is_asked_for(serve: Serve) -> None:
    async with serve() as api:
        before = (await create(api)).json()["token"]
        answer = await api.client.post(f"{TOKENS}/ci/rotate", json={"grace_seconds": 60})
        assert answer.json()["previous_until"] is not None
        assert await opens(api, before)
        assert await opens(api, answer.json()["token"])
        keyring = api.service.snapshot.keyring
        assert keyring.find(before, time.time() + 61) is None
        assert keyring.find(answer.json()["token"], time.time() + 61) is not None


async def test_a_token_ends_when_it_was_said_to(serve: Serve) -> None:
    async with serve() as api:
        at = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        token = (await create(api, expires_at=at)).json()["token"]
        assert await opens(api, token)
        assert api.service.snapshot.keyring.find(token, time.time() + 3601) is None


async def test_the_one_of_the_settings_works_beside_them(serve: Serve) -> None:
    async with serve() as api:
        await create(api, scopes=["admin"])
        await api.client.delete(f"{TOKENS}/ci")
        assert (await api.client.get(TOKENS)).status_code == 200


@pytest.mark.parametrize(
    "given",
    [
        {"name": "CI"},
        {"scopes": []},
        {"scopes": ["root"]},
        {"scopes": ["reader", "reader"]},
        {"prompts": ["Support"]},
        {"prompts": ["a b"]},
        {"prompts": [""]},
        {"prompts": ["@base"]},
        {"expires_at": "2020-01-01T00:00:00Z"},
        {"expires_at": "2999-01-01T00:00:00"},
        {"sha256": "0" * 64},
    ],
    ids=json.dumps,
)
async def test_a_token_that_makes_no_sense_is_not_made(serve: Serve, given: dict[str, Any]) -> None:
    async with serve() as api:
        answer = await create(api, **given)
        assert (answer.status_code, code_of(answer)) == (400, "invalid_request")
        assert api.service.catalogue.revision() == 0


async def test_there_is_no_token_of_that_name(serve: Serve) -> None:
    async with serve() as api:
        answer = await api.client.delete(f"{TOKENS}/ci")
        assert (answer.status_code, code_of(answer)) == (404, "token_not_found")


def test_another_replicas_tokens_arrive_with_its_changes(tmp_path: Path) -> None:
    url = url_of(tmp_path / "catalogue.db")
    here, there = Catalogue.open(url), Catalogue.open(url)
    seen = here.snapshot(EMPTY)
    _, minted = AccessTokens(there.database).create("ci", ("reader",))
    seen = here.snapshot(seen)
    assert seen.keyring.find(minted.text, 0.0) is not None
    AccessTokens(there.database).revoke("ci")
    assert here.snapshot(seen).keyring.find(minted.text, 0.0) is None
    here.close()
    there.close()


def test_other_changes_leave_the_keyring_as_it_is(tmp_path: Path) -> None:
    from softprompt_serve.artifact import Content  # noqa: PLC0415

    catalogue = Catalogue.open(url_of(tmp_path / "catalogue.db"))
    AccessTokens(catalogue.database).create("ci", ("reader",))
    before = catalogue.snapshot(EMPTY)
    catalogue.add_version("support", None, Content("hard", text="a"), {})
    assert catalogue.snapshot(before).keyring is before.keyring
    catalogue.close()


async def test_when_it_was_used_last_is_written_later_and_to_the_hour(tmp_path: Path) -> None:
    catalogue = Catalogue.open(url_of(tmp_path / "catalogue.db"))
    tokens = AccessTokens(catalogue.database)
    token, _ = tokens.create("ci", ("reader",))
    revision, clock = catalogue.revision(), [3600.0 * 10 + 5]
    uses = TokenUses(tokens, clock=lambda: clock[0])
    uses(Used(token.id))
    assert tokens.all()[0].last_used_at is None
    await uses.flush()
    assert tokens.all()[0].last_used_at == "1970-01-01T10:00:00.000Z"
    clock[0] += 3600
    uses(Used(token.id))
    await uses.flush()
    assert tokens.all()[0].last_used_at == "1970-01-01T11:00:00.000Z"
    assert catalogue.revision() == revision
    catalogue.close()


async def test_uses_are_told_by_the_gate(serve: Serve) -> None:
    async with serve() as api:
        made = (await create(api)).json()
        told: list[Used] = []
        api.service.events.listen(Used, told.append)
        await opens(api, made["token"])
        assert told == [Used(made["id"])]
