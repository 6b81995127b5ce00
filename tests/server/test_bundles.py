"""The bundle route, imports that name their digest, and approvals, over HTTP."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from runs import run_id, scored
from server.answers import V1, VERSIONS, code_of

from softprompt_serve.errors import Unavailable
from softprompt_serve.release.bundle import unpack
from softprompt_serve.release.evidence_shapes import to_document
from softprompt_serve.testing import BASE_MODEL

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    Serve = Callable[..., AbstractAsyncContextManager[Any]]

pytestmark = pytest.mark.anyio


async def add_run(api: Any, number: int = 1, **digests: str) -> None:
    document = to_document(scored(digests, id=run_id(number)))
    answer = await api.client.post(f"{V1}/prompts/support/runs", content=document)
    assert answer.status_code == 201, answer.text


async def test_a_bundle_is_the_version_with_its_record_and_base_model(serve: Serve) -> None:
    async with serve() as api:
        record = json.dumps({"seed": 7, "trained_from": "support@v1"})
        version = (await api.import_soft(3, record=record, text="Be brief.")).json()
        answer = await api.client.get(f"{VERSIONS}/v1/bundle")
        assert answer.headers["content-type"] == "application/zip"
        assert answer.headers["content-disposition"] == 'attachment; filename="support-v1.spb"'
        bundle = unpack(answer.content)
        assert (bundle.label, bundle.content.digest) == ("support@v1", version["digest"])
        assert bundle.content.text == "Be brief."
        assert bundle.record.given() == json.loads(record)
        assert bundle.base.name == BASE_MODEL


async def test_a_bundle_is_the_same_bytes_each_time(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft()
        first = await api.client.get(f"{VERSIONS}/v1/bundle")
        await api.alias("v1", "candidate")
    async with serve() as api:
        assert (await api.client.get(f"{VERSIONS}/candidate/bundle")).content == first.content


async def test_a_bundle_has_the_runs_that_asked_this_version(serve: Serve) -> None:
    async with serve() as api:
        one, two = (await api.import_soft(2, 0)).json(), (await api.import_soft(2, 1)).json()
        await add_run(api, 1, v1=one["digest"])
        await add_run(api, 2, v1=one["digest"], v2=two["digest"])
        found = unpack((await api.client.get(f"{VERSIONS}/v2/bundle")).content)
        assert set(found.runs) == {run_id(2)}
        stored = (await api.client.get(f"{V1}/prompts/support/runs/{run_id(2)}")).json()
        assert json.loads(found.runs[run_id(2)]) == stored
        bare = await api.client.get(f"{VERSIONS}/v2/bundle", params={"evaluations": "false"})
        assert not unpack(bare.content).runs


async def test_a_bundle_of_nothing_is_not_found(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft()
        answer = await api.client.get(f"{VERSIONS}/v2/bundle")
        assert (answer.status_code, code_of(answer)) == (404, "version_not_found")


async def test_a_bundle_needs_the_admin_token(serve: Serve) -> None:
    async with serve(token=None) as api:
        assert (await api.client.get(f"{VERSIONS}/v1/bundle")).status_code == 401


async def test_a_bundle_of_lost_content_is_an_error(serve: Serve) -> None:
    async with serve() as api:
        version = (await api.import_soft()).json()
        api.service.store.delete(version["digest"])
        answer = await api.client.get(f"{VERSIONS}/v1/bundle")
        assert (answer.status_code, code_of(answer)) == (503, "blob_missing")


async def test_an_import_of_the_expected_digest_is_taken(serve: Serve) -> None:
    async with serve() as api:
        digest = (await api.import_soft(version="v1")).json()["digest"]
        answer = await api.import_soft(version="v2", digest=digest)
        assert (answer.status_code, answer.json()["digest"]) == (201, digest)


async def test_an_import_of_another_digest_changes_nothing(serve: Serve) -> None:
    async with serve() as api:
        answer = await api.import_soft(digest="0" * 64)
        assert (answer.status_code, code_of(answer)) == (409, "digest_mismatch")
        assert answer.json()["error"]["param"] == "digest"
        assert (await api.client.get(f"{V1}/prompts")).json()["data"] == []
        assert not list(api.service.settings.home_dir.glob("blobs/??/*"))


async def test_what_is_no_digest_is_refused(serve: Serve) -> None:
    async with serve() as api:
        answer = await api.import_soft(digest="abc")
        assert (answer.status_code, code_of(answer)) == (400, "invalid_request")


async def test_approvals_say_who_promoted_a_version_and_why(serve: Serve) -> None:
    async with serve() as api:
        await api.import_text("Be brief.")
        await api.import_text("Be kind.")
        await api.alias("v1")
        arms = [{"version": "v1", "weight": 50}, {"version": "v2", "weight": 50}]
        await api.client.put(f"{V1}/prompts/support/rollout", json={"arms": arms})
        promoted = await api.client.post(
            f"{V1}/prompts/support/rollout/promote",
            json={"version": "v2", "reason": "Better."},
            params={"actor": "ada"},
        )
        assert promoted.status_code == 200
        (approval,) = (await api.client.get(f"{VERSIONS}/v2")).json()["approvals"]
        assert (approval["actor"], approval["action"]) == ("ada", "rollout.promoted")
        assert approval["detail"]["reason"] == "Better."
        (first,) = (await api.client.get(f"{VERSIONS}/v1")).json()["approvals"]
        assert (first["action"], first["subject"]) == ("alias.set", "production")


async def test_an_alias_that_moved_on_still_approved_what_it_meant(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft(2, 0)
        await api.import_soft(2, 1)
        for version in ("v1", "v2", "v1"):
            await api.alias(version, "candidate")
        approvals = (await api.client.get(f"{VERSIONS}/v1")).json()["approvals"]
        assert [a["detail"]["previous"] for a in approvals] == ["v2", None]
        assert len((await api.client.get(f"{VERSIONS}/v2")).json()["approvals"]) == 1


async def test_a_version_that_nobody_approved_has_no_approvals(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft()
        assert (await api.client.get(f"{VERSIONS}/v1")).json()["approvals"] == []


async def test_a_version_can_be_read_while_the_catalogue_can_not(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve() as api:
        await api.import_soft()

        def gone(**_: Any) -> None:
            msg = "gone"
            raise Unavailable(msg)

        monkeypatch.setattr(api.service.catalogue, "audit", gone)
        answer = await api.client.get(f"{VERSIONS}/v1")
        assert (answer.status_code, answer.json()["approvals"]) == (200, None)


async def test_a_record_can_not_bring_its_own_approvals(serve: Serve) -> None:
    async with serve() as api:
        answer = await api.import_soft(record='{"approvals": []}')
        assert (answer.status_code, code_of(answer)) == (400, "invalid_record")


async def test_a_long_record_is_read_back(serve: Serve) -> None:
    async with serve() as api:
        notes = "\u4f60" * 16_000
        await api.import_soft(record=json.dumps({"notes": notes}, ensure_ascii=False))
        answer = await api.client.get(f"{V1}/prompts")
        assert answer.json()["data"][0]["versions"][0]["record"]["notes"] == notes
