"""The admin API over HTTP: what it answers, and that bad input changes nothing."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from server.answers import V1, VERSIONS, code_of

from softprompt_serve.errors import Unavailable
from softprompt_serve.testing import ADMIN_TOKEN, BASE_MODEL, HIDDEN_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    Serve = Callable[..., AbstractAsyncContextManager[Any]]

pytestmark = pytest.mark.anyio

ROLLOUT_PARTS = ("weights", "promote", "rollback", "pause", "resume", "explain", "history")


async def test_an_import_is_answered_with_what_was_made_of_it(serve: Serve) -> None:
    async with serve() as api:
        answer = await api.import_soft(3, record=json.dumps({"dataset": "tickets"}), version="v2")
        assert answer.status_code == 201
        body = answer.json()
        expected = {
            "prompt": "support",
            "version": "v2",
            "kind": "soft",
            "virtual_tokens": 3,
            "hidden_size": HIDDEN_SIZE,
            "dtype": "float32",
            "state": "resident",
            "aliases": [],
        }
        assert expected.items() <= body.items()
        assert len(body["digest"]) == 64
        assert body["record"]["dataset"] == "tickets"
        assert "base_model" in body["record_missing"]


async def test_versions_are_named_one_after_the_other(serve: Serve) -> None:
    async with serve() as api:
        names = [(await api.import_soft(2, seed)).json()["version"] for seed in range(3)]
        assert names == ["v1", "v2", "v3"]


async def test_the_same_content_under_the_same_name_is_the_same_version(serve: Serve) -> None:
    async with serve() as api:
        first = await api.import_soft(version="v7")
        again = await api.import_soft(version="v7")
        assert (first.status_code, again.status_code) == (201, 200)
        assert again.json() == first.json()


async def test_other_content_under_a_name_is_a_conflict(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft(version="v1")
        answer = await api.import_soft(2, 1, version="v1")
        assert (answer.status_code, code_of(answer)) == (409, "version_exists")


async def test_content_that_is_refused_as_a_version_is_not_kept(serve: Serve) -> None:
    async with serve() as api:
        kept = (await api.import_soft(version="v1")).json()["digest"]
        blobs = api.service.settings.home_dir / "blobs"
        for seed in range(1, 4):
            assert (await api.import_soft(2, seed, version="v1")).status_code == 409
        assert [path.name for path in blobs.glob("*/*")] == [kept]


async def test_content_that_is_refused_under_one_name_stays_under_another(serve: Serve) -> None:
    async with serve() as api:
        for seed, name in enumerate(("v1", "v2"), start=1):
            await api.import_soft(2, seed, version=name)
        answer = await api.import_soft(2, 2, version="v1")
        assert answer.status_code == 409
        blobs = api.service.settings.home_dir / "blobs"
        assert len(list(blobs.glob("*/*"))) == 2


async def test_a_text_becomes_a_hard_version(serve: Serve) -> None:
    async with serve() as api:
        body = (await api.import_text("Be brief.")).json()
        assert (body["kind"], body["text"], body["state"]) == ("hard", "Be brief.", "resident")


async def test_a_soft_version_may_carry_a_text(serve: Serve) -> None:
    async with serve() as api:
        plain = (await api.import_soft()).json()
        mixed = (await api.import_soft(text="Be brief.")).json()
        assert (mixed["kind"], mixed["text"]) == ("soft", "Be brief.")
        assert mixed["digest"] != plain["digest"]


async def test_the_base_model_can_be_a_version(serve: Serve) -> None:
    async with serve() as api:
        answer = await api.client.post(VERSIONS, data={"kind": "base"})
        assert (answer.status_code, answer.json()["kind"]) == (201, "base")


async def test_prompts_are_listed_by_name_with_all_there_is(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft(prompt="support")
        await api.import_text(prompt="sales")
        await api.alias("v1")
        body = (await api.client.get(f"{V1}/prompts")).json()
        assert [prompt["name"] for prompt in body["data"]] == ["sales", "support"]
        assert body["data"][1]["aliases"] == {"production": "v1"}
        assert body["data"][1]["versions"][0]["aliases"] == ["production"]
        assert body["revision"] == 3


async def test_a_version_is_shown_by_its_name_or_an_alias(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft()
        await api.alias("v1")
        by_name = (await api.client.get(f"{VERSIONS}/v1")).json()
        assert (await api.client.get(f"{VERSIONS}/production")).json() == by_name


async def test_versions_of_a_prompt_are_listed_oldest_first(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft(version="zeta")
        await api.import_soft(2, 1, version="alpha")
        body = (await api.client.get(VERSIONS)).json()
        assert [version["version"] for version in body] == ["zeta", "alpha"]


async def test_an_alias_says_where_it_points_and_pointed(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft()
        await api.import_soft(2, 1)
        first = (await api.alias("v1")).json()
        second = (await api.alias("v2")).json()
        assert (first["version"], first["previous"]) == ("v1", None)
        assert (second["version"], second["previous"]) == ("v2", "v1")


async def test_an_alias_may_be_set_to_what_another_alias_means(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft()
        await api.alias("v1", "candidate")
        assert (await api.alias("candidate")).json()["version"] == "v1"


async def test_a_removed_alias_is_gone(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft()
        await api.alias("v1")
        answer = await api.client.delete(f"{V1}/prompts/support/aliases/production")
        assert answer.json() == {"removed": "support@production"}
        assert (await api.client.get(f"{V1}/prompts/support")).json()["aliases"] == {}


async def test_a_removed_version_is_gone_and_its_prompt_with_the_last(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft()
        assert (await api.client.delete(f"{VERSIONS}/v1")).json() == {
            "removed": "support@v1",
            "draining": False,
        }
        answer = await api.client.get(f"{V1}/prompts/support")
        assert (answer.status_code, code_of(answer)) == (404, "prompt_not_found")


async def test_an_aliased_version_can_not_be_removed(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft()
        await api.alias("v1")
        answer = await api.client.delete(f"{VERSIONS}/v1")
        assert (answer.status_code, code_of(answer)) == (409, "version_aliased")
        assert api.service.residency.is_resident(api.service.find_version("support", "v1"))


async def test_a_version_is_not_removed_by_an_alias(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft()
        await api.alias("v1")
        answer = await api.client.delete(f"{VERSIONS}/production")
        assert (answer.status_code, code_of(answer)) == (404, "version_not_found")


async def test_a_version_is_unloaded_and_loaded_again(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft()
        url = f"{VERSIONS}/v1/residency"
        states = [
            (await api.client.put(url, json={"resident": resident})).json()["state"]
            for resident in (False, True)
        ]
        assert states == ["unloaded", "resident"]


async def test_residency_shows_workers_and_leases(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft(3)
        version = api.service.find_version("support", "v1")
        lease = api.service.residency.lease(version)
        body = (await api.client.get(f"{V1}/residency")).json()
        assert body["workers"][0]["resident"] == {version.digest: 3}
        assert body["leases"] == {"support@v1": 1}
        lease.release()


async def test_the_audit_shows_who_did_what_newest_first(serve: Serve) -> None:
    async with serve() as api:
        await api.client.post(VERSIONS, data={"text": "Be brief."}, params={"actor": "ann"})
        await api.alias("v1")
        entries = (await api.client.get(f"{V1}/audit")).json()["data"]
        assert [(e["action"], e["actor"]) for e in entries] == [
            ("alias.set", None),
            ("version.imported", "ann"),
        ]


async def test_the_audit_is_paged(serve: Serve) -> None:
    async with serve() as api:
        for seed in range(3):
            await api.import_soft(2, seed)
        first = (await api.client.get(f"{V1}/audit", params={"limit": 2})).json()["data"]
        rest = await api.client.get(f"{V1}/audit", params={"before": first[-1]["id"]})
        assert [len(first), len(rest.json()["data"])] == [2, 1]


async def test_the_server_describes_itself(serve: Serve) -> None:
    async with serve() as api:
        body = (await api.client.get(f"{V1}/server")).json()
        assert body["served_names"] == [BASE_MODEL]
        assert body["limits"]["hidden_size"] == HIDDEN_SIZE


async def test_health_and_readiness_need_no_token(serve: Serve) -> None:
    async with serve(token=None) as api:
        assert (await api.client.get(f"{V1}/healthz")).json() == {"status": "ok"}
        assert (await api.client.get(f"{V1}/readyz")).json()["ready"] is True


async def test_everything_else_needs_one(serve: Serve) -> None:
    async with serve(token=None) as api:
        schema = (await api.client.get("/openapi.json")).json()
        opened = {f"{V1}/healthz", f"{V1}/readyz"}
        for path, methods in schema["paths"].items():
            for method in methods:
                url = path.format(
                    name="support",
                    version="v1",
                    alias="production",
                    hook="rollout",
                    response_id="chatcmpl-1",
                    run="0" * 32,
                    token="ci",
                )
                answer = await api.client.request(method, url)
                assert (answer.status_code == 401) == (path not in opened), (method, path)


async def test_dead_workers_end_readiness(serve: Serve) -> None:
    async with serve() as api:
        api.workers.failure = Unavailable("The engine is down.", code="workers_failed")
        answer = await api.client.get(f"{V1}/readyz")
        assert answer.status_code == 503
        assert answer.json()["checks"]["workers"] == "The engine is down."


async def test_readiness_brings_a_lost_production_version_back(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft()
        await api.alias("v1")
        digest = api.service.find_version("support", "v1").digest
        api.workers.lose(digest)
        assert (await api.client.get(f"{V1}/readyz")).status_code == 200
        assert api.workers.slots.find(digest) is not None


async def test_a_production_version_that_can_not_be_loaded_ends_readiness(
    serve: Serve,
) -> None:
    async with serve() as api:
        await api.import_soft()
        await api.alias("v1")
        digest = api.service.find_version("support", "v1").digest
        api.workers.lose(digest)
        api.service.store.delete(digest)
        answer = await api.client.get(f"{V1}/readyz")
        assert answer.status_code == 503
        assert "support@v1" in answer.json()["checks"]["production"]


async def test_a_lost_catalogue_is_reported_without_ending_readiness(
    serve: Serve, tmp_path: Path
) -> None:
    async with serve() as api:
        (tmp_path / "catalogue.db").unlink()
        for _ in range(100):
            if not api.service.feed.healthy:
                break
            await asyncio.sleep(0.02)
        answer = await api.client.get(f"{V1}/readyz")
        assert answer.status_code == 200
        assert answer.json()["checks"]["catalogue"] != "ok"


async def test_a_dead_catalogue_answers_changes_503_and_reads_on(
    serve: Serve, tmp_path: Path
) -> None:
    async with serve() as api:
        await api.import_soft()
        (tmp_path / "catalogue.db").unlink()
        change = await api.alias("v1")
        assert (change.status_code, code_of(change)) == (503, "catalogue_unavailable")
        assert change.headers["retry-after"] == "1"
        assert (await api.client.get(f"{VERSIONS}/v1")).status_code == 200


async def test_before_start_up_has_finished_everything_is_503(serve: Serve) -> None:
    async with serve() as api:
        api.client._transport.app.state.softprompt.service = None
        answer = await api.client.get(f"{V1}/prompts")
        assert (answer.status_code, code_of(answer)) == (503, "starting")
        assert (await api.client.get(f"{V1}/readyz")).status_code == 503


async def test_openapi_describes_every_route_its_errors_and_the_token(serve: Serve) -> None:
    async with serve() as api:
        schema = (await api.client.get("/openapi.json")).json()
        paths = {path.removeprefix(V1) for path in schema["paths"]}
        assert paths == {
            "/healthz",
            "/readyz",
            "/server",
            "/prompts",
            "/prompts/{name}",
            "/prompts/{name}/versions",
            "/prompts/{name}/versions/{version}",
            "/prompts/{name}/versions/{version}/residency",
            "/prompts/{name}/versions/{version}/verify",
            "/prompts/{name}/versions/{version}/bundle",
            "/prompts/{name}/aliases/{alias}",
            "/prompts/{name}/rollout",
            *(f"/prompts/{{name}}/rollout/{part}" for part in ROLLOUT_PARTS),
            "/prompts/{name}/shadow",
            "/prompts/{name}/runs",
            "/prompts/{name}/runs/{run}",
            "/prompts/{name}/evaluations",
            "/prompts/{name}/policy",
            "/prompts/{name}/versions/{version}/gates",
            "/hooks/flagger/{hook}",
            "/residency",
            "/audit",
            "/feedback",
            "/evaluations",
            "/responses/{response_id}",
            "/tokens",
            "/tokens/{token}",
            "/tokens/{token}/rotate",
        }
        assert "HTTPBearer" in schema["components"]["securitySchemes"]
        for path, methods in schema["paths"].items():
            for method, operation in methods.items():
                assert operation["summary"], (method, path)
                probe = path.endswith(("/healthz", "/readyz"))
                assert bool(operation.get("security")) != probe, (method, path)


async def test_openapi_names_the_upload_parts(serve: Serve) -> None:
    async with serve() as api:
        schema = (await api.client.get("/openapi.json")).json()
        body = schema["paths"][f"{V1}/prompts/{{name}}/versions"]["post"]["requestBody"]
        ref = body["content"]["multipart/form-data"]["schema"]["$ref"].rpartition("/")[2]
        parts = schema["components"]["schemas"][ref]["properties"]
        assert set(parts) == {"tensor", "record", "version", "kind", "text", "digest"}


async def test_a_root_path_changes_neither_routes_nor_the_gate(serve: Serve) -> None:
    async with serve(root_path="/api") as api:
        answer = await api.client.get(f"/api{V1}/prompts")
        assert answer.status_code == 200
        stranger = await api.client.get(f"/api{V1}/prompts", headers={"authorization": "Bearer x"})
        assert stranger.status_code == 401


async def test_a_token_is_generated_where_none_is_set(serve: Serve, tmp_path: Path) -> None:
    async with serve(admin_token=None) as api:
        refused = await api.client.get(f"{V1}/prompts")
        assert refused.status_code == 401
        token = (tmp_path / "admin-token").read_text().strip()
        assert token != ADMIN_TOKEN
        headers = {"authorization": f"Bearer {token}"}
        assert (await api.client.get(f"{V1}/prompts", headers=headers)).status_code == 200
