"""The routes of evaluation runs: what they take, keep and answer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

import httpx
import pytest
from runs import AT, EVALUATOR, RUN_ID, TOTAL, published, run_id, scored
from server.answers import V1, VERSIONS, code_of
from server.conftest import Api

from softprompt_serve.registry.evidence_rows import canonical
from softprompt_serve.release.evidence import Run
from softprompt_serve.release.evidence_shapes import parse_run, to_document
from softprompt_serve.server.retention import Tidying
from softprompt_serve.telemetry.events import Operation

Serve = Callable[..., AbstractAsyncContextManager[Api]]

pytestmark = pytest.mark.anyio

RUNS = f"{V1}/prompts/support/runs"
EVALUATIONS = f"{V1}/prompts/support/evaluations"


async def two_versions(api: Api) -> dict[str, str]:
    """`support` with v1 and v2; returns their digests."""
    made = [await api.import_text(text) for text in ("Be brief.", "Be kind.")]
    return {answer.json()["version"]: answer.json()["digest"] for answer in made}


async def send(api: Api, run: Run, **query: str) -> httpx.Response:
    return await api.client.post(RUNS, content=to_document(run), params=query)


async def test_a_run_is_kept_once(serve: Serve) -> None:
    async with serve() as api:
        run = scored(await two_versions(api))
        sent = [await send(api, run) for _ in range(2)]
        assert [answer.status_code for answer in sent] == [201, 200]
        assert [answer.json()["recorded"] for answer in sent] == [True, False]
        head = sent[0].json()["run"]
        assert (head["id"], head["dataset"], head["source"]) == (RUN_ID, "tickets", "run")
        assert (head["items"], head["scores"], head["answers"], head["totals"]) == (4, 8, 8, 0)
        assert head["at"] == "2025-10-09T08:53:20.000Z"
        assert sent[1].json()["run"] == head


async def test_a_run_is_answered_whole_as_it_was_sent(serve: Serve) -> None:
    async with serve() as api:
        run = scored(await two_versions(api))
        await send(api, run)
        answer = await api.client.get(f"{RUNS}/{RUN_ID}")
        assert answer.headers["content-type"] == "application/json"
        assert parse_run(answer.content) == canonical(run)


async def test_what_is_answered_can_be_sent_again(serve: Serve) -> None:
    async with serve() as api:
        await send(api, scored(await two_versions(api)))
        answer = await api.client.get(f"{RUNS}/{RUN_ID}")
        again = await api.client.post(RUNS, content=answer.content)
        assert again.status_code == 200


async def test_another_run_under_the_same_id_is_a_conflict(serve: Serve) -> None:
    async with serve() as api:
        run = scored(await two_versions(api))
        await send(api, run)
        answer = await send(api, replace(run, at=AT + 1))
        assert (answer.status_code, code_of(answer)) == (409, "run_exists")


async def test_a_run_about_other_content_is_a_conflict_and_keeps_nothing(serve: Serve) -> None:
    async with serve() as api:
        digests = await two_versions(api)
        before = api.service.catalogue.revision()
        answer = await send(api, scored({**digests, "v2": "9" * 64}))
        assert (answer.status_code, code_of(answer)) == (409, "digest_mismatch")
        assert answer.json()["error"]["param"] == "digests.v2"
        assert (await api.client.get(RUNS)).json() == {"data": []}
        assert api.service.catalogue.revision() == before


async def test_a_run_about_what_is_not_there_is_not_found(serve: Serve) -> None:
    async with serve() as api:
        digests = await two_versions(api)
        answer = await send(api, scored({**digests, "v9": "9" * 64}))
        assert (answer.status_code, code_of(answer)) == (404, "version_not_found")
        nobody = await api.client.get(f"{V1}/prompts/sales/runs")
        assert (nobody.status_code, code_of(nobody)) == (404, "prompt_not_found")


@pytest.mark.parametrize(
    ("param", "change"),
    [
        ("scores.0.passed", lambda d: d["scores"][0].update(passed="yes")),
        ("prompt", lambda d: d.update(prompt="sales")),
        ("at", lambda d: d.update(at=time.time() + 3600)),
        ("at", lambda d: d.update(at=1e300)),
    ],
)
async def test_a_run_that_does_not_fit_is_refused_by_its_field(
    serve: Serve, param: str, change: Callable[[dict[str, Any]], object]
) -> None:
    async with serve() as api:
        data = json.loads(to_document(scored(await two_versions(api))))
        change(data)
        answer = await api.client.post(RUNS, json=data)
        assert (answer.status_code, code_of(answer)) == (400, "invalid_run")
        assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff"])
async def test_a_body_that_is_no_run_is_refused(serve: Serve, body: bytes) -> None:
    async with serve() as api:
        answer = await api.client.post(RUNS, content=body)
        assert (answer.status_code, code_of(answer)) == (400, "invalid_run")


async def test_a_body_over_the_limit_is_refused(serve: Serve) -> None:
    async with serve(max_upload_bytes=1024) as api:
        answer = await api.client.post(RUNS, content=to_document(scored({"v1": "1" * 64})))
        assert (answer.status_code, code_of(answer)) == (413, "upload_too_large")


async def test_runs_are_listed_newest_first_and_found_by_data_set_and_version(
    serve: Serve,
) -> None:
    async with serve() as api:
        digests = await two_versions(api)
        one = {"v1": digests["v1"]}
        await send(api, scored(digests, id=run_id(1)))
        await send(api, scored(one, id=run_id(2), at=AT + 1))
        await send(api, published(one, id=run_id(3), at=AT + 2))

        async def listed(**query: str | int) -> list[str]:
            answer = await api.client.get(RUNS, params=query)
            return [run["id"] for run in answer.json()["data"]]

        assert await listed() == [run_id(3), run_id(2), run_id(1)]
        assert await listed(dataset="tickets") == [run_id(2), run_id(1)]
        assert await listed(version="v2") == [run_id(1)]
        assert await listed(limit=1) == [run_id(3)]


async def test_a_run_of_another_prompt_is_not_found(serve: Serve) -> None:
    async with serve() as api:
        await send(api, scored(await two_versions(api)))
        for url in (f"{V1}/prompts/sales/runs/{RUN_ID}", f"{RUNS}/{run_id(7)}"):
            answer = await api.client.get(url)
            assert (answer.status_code, code_of(answer)) == (404, "run_not_found")
        answer = await api.client.get(f"{RUNS}/latest")
        assert (answer.status_code, code_of(answer)) == (400, "invalid_request")


async def test_evaluations_say_how_often_each_version_fails_in_each_cohort(serve: Serve) -> None:
    async with serve() as api:
        digests = await two_versions(api)
        verdicts = {"v1": [True, False, False, False], "v2": [True] * 4}
        await send(api, scored(digests, verdicts))
        await send(api, published(digests, id=run_id(2)))
        body = (await api.client.get(EVALUATIONS)).json()
        assert body["prompt"] == "support"
        found = {(r["version"], r["cohort"], r["dataset"]): r for r in body["data"]}
        assert len(found) == 6
        first = found["v1", "default", "tickets"]
        assert (first["items"], first["passed"], first["failed"]) == (2, 1, 1)
        assert (first["fail_rate"], first["mean"], first["evaluator"]) == (0.5, 0.5, EVALUATOR)
        assert (first["run"], first["at"]) == (RUN_ID, "2025-10-09T08:53:20.000Z")
        assert found["v1", "regulated", "tickets"]["fail_rate"] == 1.0
        assert found["v2", "regulated", "tickets"]["fail_rate"] == 0.0
        anchor = found["v2", None, "mmlu_pro"]
        assert (anchor["evaluator"], anchor["mean"], anchor["stderr"]) == (TOTAL, 0.25, 0.01)
        assert anchor["fail_rate"] is None


async def test_evaluations_are_found_by_data_set_and_version(serve: Serve) -> None:
    async with serve() as api:
        digests = await two_versions(api)
        await send(api, scored(digests))
        await send(api, published(digests, id=run_id(2)))
        for query, left in (({"version": "v1"}, 3), ({"dataset": "mmlu_pro"}, 2), ({}, 6)):
            body = (await api.client.get(EVALUATIONS, params=query)).json()
            assert len(body["data"]) == left


async def test_evidence_outlives_its_version_and_its_prompt(serve: Serve) -> None:
    async with serve() as api:
        await send(api, scored(await two_versions(api)))
        for version in ("v1", "v2"):
            await api.client.delete(f"{VERSIONS}/{version}")
        assert len((await api.client.get(RUNS)).json()["data"]) == 1
        assert len((await api.client.get(EVALUATIONS)).json()["data"]) == 4


async def test_adding_a_run_is_audited_with_who_sent_it(serve: Serve) -> None:
    async with serve() as api:
        digests = await two_versions(api)
        await send(api, scored(digests), actor="ci")
        (entry, *_) = (await api.client.get(f"{V1}/audit")).json()["data"]
        assert (entry["action"], entry["actor"], entry["subject"]) == (
            "evaluation.add",
            "ci",
            RUN_ID,
        )
        assert entry["revision"] == api.service.snapshot.revision


async def test_adding_a_run_is_told_of_as_a_change(serve: Serve) -> None:
    async with serve() as api:
        told: list[Operation] = []
        digests = await two_versions(api)
        api.service.events.listen(Operation, told.append)
        await send(api, scored(digests))
        (made,) = told
        assert (made.name, made.prompt, made.subject, made.error) == (
            "evaluation",
            "support",
            RUN_ID,
            None,
        )


async def test_a_dead_catalogue_is_503(serve: Serve) -> None:
    async with serve() as api:
        digests = await two_versions(api)
        (api.service.settings.home_dir / "catalogue.db").unlink()
        answer = await send(api, scored(digests))
        assert (answer.status_code, code_of(answer)) == (503, "catalogue_unavailable")


async def test_openapi_knows_what_a_run_looks_like(serve: Serve) -> None:
    async with serve() as api:
        schema = (await api.client.get("/openapi.json")).json()
        body = schema["paths"][f"{V1}/prompts/{{name}}/runs"]["post"]["requestBody"]
        name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert set(schema["components"]["schemas"][name]["properties"]) == set(
            Run.__dataclass_fields__
        )


async def test_a_run_is_removed_and_told_of(serve: Serve) -> None:
    async with serve() as api:
        await send(api, scored(await two_versions(api)))
        told: list[Operation] = []
        api.service.events.listen(Operation, told.append)
        answer = await api.client.delete(f"{RUNS}/{RUN_ID}", params={"actor": "ada"})
        assert (answer.status_code, answer.json()["id"]) == (200, RUN_ID)
        assert (await api.client.get(f"{RUNS}/{RUN_ID}")).status_code == 404
        assert [(one.name, one.subject, one.actor) for one in told] == [
            ("evaluation_remove", RUN_ID, "ada")
        ]


async def test_a_run_that_is_not_there_can_t_be_removed(serve: Serve) -> None:
    async with serve() as api:
        await two_versions(api)
        answer = await api.client.delete(f"{RUNS}/{RUN_ID}")
        assert (answer.status_code, code_of(answer)) == (404, "run_not_found")


async def test_a_server_removes_what_its_settings_do_not_keep(serve: Serve) -> None:
    async with serve(evidence_runs=1) as api:
        digests = await two_versions(api)
        for number in range(3):
            await send(api, scored(digests, id=run_id(number), at=AT + number))
        assert await Tidying(api.service).tidy() == 2
        left = (await api.client.get(RUNS)).json()["data"]
        assert [run["id"] for run in left] == [run_id(2)]
