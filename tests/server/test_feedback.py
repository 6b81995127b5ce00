"""The feedback routes: tied to the version that answered, once, and by whom it may be said."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

import anyio
import pytest
from rollout.events import event
from server.answers import V1, code_of
from server.conftest import Api

from softprompt_serve.telemetry.events import Evaluation, Feedback, RequestEvent, TraceRef

Serve = Callable[..., AbstractAsyncContextManager[Api]]

pytestmark = pytest.mark.anyio

TOKEN = "application-1"
TRACE = TraceRef("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
UP = {"response_id": "chatcmpl-1", "kind": "thumbs_up"}
DOWN = {"response_id": "chatcmpl-1", "kind": "thumbs_down"}
PASSED = {"response_id": "chatcmpl-1", "evaluation": "tone", "passed": True}


def answered(api: Api, *events: RequestEvent) -> list[Any]:
    """Requests have ended; returns what is told from now on."""
    told: list[Any] = []
    api.service.events.listen(Feedback, told.append)
    api.service.events.listen(Evaluation, told.append)
    for found in events or (event("v2", response_id="chatcmpl-1", trace=TRACE),):
        api.service.events.emit(found)
    return told


async def test_feedback_is_tied_to_the_version_that_answered(serve: Serve) -> None:
    async with serve() as api:
        told = answered(api)
        response = await api.client.post(f"{V1}/feedback", json={**DOWN, "value": 1, "note": "no"})
        body = response.json()
        assert (response.status_code, body["recorded"]) == (201, True)
        assert (body["answer"]["prompt"], body["answer"]["version"]) == ("support", "v2")
        assert body["answer"]["trace_id"] == TRACE.trace_id
        (found,) = told
        assert (found.answer.version, found.kind, found.value) == ("v2", "thumbs_down", 1.0)
        assert found.first
        assert found.first_unhappy


async def test_feedback_that_is_sent_again_counts_once(serve: Serve) -> None:
    async with serve() as api:
        told = answered(api)
        sent = [await api.client.post(f"{V1}/feedback", json=UP) for _ in range(3)]
        assert [response.status_code for response in sent] == [201, 200, 200]
        assert [response.json()["recorded"] for response in sent] == [True, False, False]
        assert len(told) == 1


async def test_an_answer_is_found_by_its_trace(serve: Serve) -> None:
    async with serve() as api:
        told = answered(api)
        body = {"trace_id": TRACE.trace_id, "kind": "refund", "value": 12.5}
        response = await api.client.post(f"{V1}/feedback", json=body)
        assert response.json()["answer"]["response_id"] == "chatcmpl-1"
        assert told[0].value == 12.5


async def test_a_trace_with_several_answers_is_refused(serve: Serve) -> None:
    async with serve() as api:
        first = event(response_id="chatcmpl-1", trace=TRACE)
        told = answered(api, first, replace(first, response_id="chatcmpl-2"))
        body = {"trace_id": TRACE.trace_id, "kind": "refund"}
        response = await api.client.post(f"{V1}/feedback", json=body)
        assert (response.status_code, code_of(response)) == (400, "trace_ambiguous")
        assert told == []


@pytest.mark.parametrize(
    ("about", "param"),
    [({"response_id": "chatcmpl-9"}, "response_id"), ({"trace_id": "f" * 32}, "trace_id")],
)
async def test_an_answer_that_nobody_remembers_is_not_found(
    serve: Serve, about: dict[str, str], param: str
) -> None:
    async with serve() as api:
        told = answered(api)
        response = await api.client.post(f"{V1}/feedback", json={**about, "kind": "refund"})
        assert (response.status_code, code_of(response)) == (404, "response_not_found")
        assert response.json()["error"]["param"] == param
        assert told == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"kind": "thumbs_up"},
        {"response_id": "chatcmpl-1"},
        {"response_id": "chatcmpl-1", "kind": "meh"},
        {"response_id": "", "kind": "refund"},
        {"response_id": "a b", "kind": "refund"},
        {"response_id": "x" * 257, "kind": "refund"},
        {"trace_id": "F" * 32, "kind": "refund"},
        {"response_id": "chatcmpl-1", "trace_id": "f" * 32, "kind": "refund"},
        {**UP, "value": "many"},
        {**UP, "note": "x" * 2001},
        {**UP, "note": "a\0b"},
        {**UP, "version": "v1"},
    ],
)
async def test_feedback_of_another_shape_is_refused(serve: Serve, body: dict[str, Any]) -> None:
    async with serve() as api:
        told = answered(api)
        response = await api.client.post(f"{V1}/feedback", json=body)
        assert (response.status_code, code_of(response)) == (400, "invalid_request")
        assert told == []


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
async def test_a_value_is_a_number(serve: Serve, value: str) -> None:
    async with serve() as api:
        answered(api)
        response = await api.client.post(
            f"{V1}/feedback",
            content=f'{{"response_id": "chatcmpl-1", "kind": "refund", "value": {value}}}',
            headers={"content-type": "application/json"},
        )
        assert (response.status_code, code_of(response)) == (400, "invalid_request")


async def test_a_verdict_is_tied_to_the_version_that_answered(serve: Serve) -> None:
    async with serve() as api:
        told = answered(api)
        body = {**PASSED, "passed": False, "score": 0.2, "note": "rude"}
        sent = [await api.client.post(f"{V1}/evaluations", json=body) for _ in range(2)]
        assert [response.status_code for response in sent] == [201, 200]
        (found,) = told
        assert (found.answer.version, found.name, found.passed, found.score) == (
            "v2",
            "tone",
            False,
            0.2,
        )


async def test_a_verdict_that_contradicts_the_first_is_refused(serve: Serve) -> None:
    async with serve() as api:
        told = answered(api)
        await api.client.post(f"{V1}/evaluations", json=PASSED)
        response = await api.client.post(f"{V1}/evaluations", json={**PASSED, "passed": False})
        assert (response.status_code, code_of(response)) == (409, "evaluation_conflict")
        assert len(told) == 1


@pytest.mark.parametrize(
    "change", [{"passed": "yes"}, {"passed": 1}, {"evaluation": ""}, {"evaluation": "a b"}]
)
async def test_a_verdict_of_another_shape_is_refused(serve: Serve, change: dict[str, Any]) -> None:
    async with serve() as api:
        answered(api)
        response = await api.client.post(f"{V1}/evaluations", json={**PASSED, **change})
        assert (response.status_code, code_of(response)) == (400, "invalid_request")


async def test_an_admin_sees_all_that_was_said_of_an_answer(serve: Serve) -> None:
    async with serve() as api:
        answered(api)
        await api.client.post(f"{V1}/feedback", json={**DOWN, "note": "wrong label"})
        await api.client.post(f"{V1}/evaluations", json=PASSED)
        found = (await api.client.get(f"{V1}/responses/chatcmpl-1")).json()
        assert found["answer"]["version"] == "v2"
        assert [(r["kind"], r["note"]) for r in found["feedback"]] == [
            ("thumbs_down", "wrong label")
        ]
        assert [(v["evaluation"], v["passed"]) for v in found["evaluations"]] == [("tone", True)]


async def test_answers_are_remembered_beyond_a_restart(serve: Serve) -> None:
    async with serve() as api:
        answered(api)
    async with serve() as api:
        assert (await api.client.post(f"{V1}/feedback", json=UP)).status_code == 201


async def test_an_applications_token_is_for_feedback_and_evaluations_alone(serve: Serve) -> None:
    async with serve(token=TOKEN, feedback_token=TOKEN) as api:
        answered(api)
        assert (await api.client.post(f"{V1}/feedback", json=UP)).status_code == 201
        assert (await api.client.post(f"{V1}/evaluations", json=PASSED)).status_code == 201
        for method, path in (
            ("GET", "/prompts"),
            ("GET", "/responses/chatcmpl-1"),
            ("PUT", "/prompts/support/aliases/production"),
        ):
            response = await api.client.request(method, f"{V1}{path}", json={})
            assert (response.status_code, code_of(response)) == (403, "token_scope")


@pytest.mark.parametrize(
    ("token", "code"), [(None, "missing_admin_token"), ("application-2", "invalid_admin_token")]
)
async def test_strangers_can_say_nothing(serve: Serve, token: str | None, code: str) -> None:
    async with serve(token=token, feedback_token=TOKEN) as api:
        told = answered(api)
        response = await api.client.post(f"{V1}/feedback", json=UP)
        assert (response.status_code, code_of(response)) == (401, code)
        assert told == []


async def test_without_a_token_of_their_own_applications_have_none(serve: Serve) -> None:
    async with serve(token="") as api:
        response = await api.client.post(f"{V1}/feedback", json=UP)
        assert code_of(response) == "missing_admin_token"


async def test_feedback_is_small(serve: Serve) -> None:
    async with serve() as api:
        answered(api)
        response = await api.client.post(f"{V1}/feedback", json={**UP, "note": "x" * 70_000})
        assert (response.status_code, code_of(response)) == (413, "upload_too_large")
        assert "SOFTPROMPT_MAX_UPLOAD_BYTES" not in response.text


async def test_where_nothing_is_remembered_feedback_is_refused(serve: Serve) -> None:
    async with serve(feedback_responses=0) as api:
        answered(api)
        response = await api.client.post(f"{V1}/feedback", json=UP)
        assert (response.status_code, code_of(response)) == (409, "feedback_off")


async def test_feedback_reaches_the_gates_of_the_rollout_that_chose(serve: Serve) -> None:
    async with serve() as api:
        for text in ("Be brief.", "Be kind."):
            await api.import_text(text)
        await api.alias("v1")
        document = {
            "arms": [{"version": "v1", "weight": 50}, {"version": "v2", "weight": 50}],
            "gates": [{"metric": "feedback_failures", "max": 0.9}],
        }
        put = await api.client.put(f"{V1}/prompts/support/rollout", json=document)
        found = put.json()
        answered(
            api,
            event(
                "v2",
                response_id="chatcmpl-1",
                generation=found["generation"],
                epoch=found["epoch"],
            ),
        )
        for body in (DOWN, {**DOWN, "kind": "refund"}, UP):
            assert (await api.client.post(f"{V1}/feedback", json=body)).status_code == 201

        def counted() -> dict[str, Any]:
            rows = api.service.tallies.read("support", "requests", found["epoch"])
            return {row.version: row.data for row in rows}

        with anyio.fail_after(20):
            while "feedback_failures" not in counted().get("v2", {}):  # noqa: ASYNC110 - by a companion
                await anyio.sleep(0.05)
        assert counted()["v2"]["feedback"] == 1
        assert counted()["v2"]["feedback_failures"] == 1
