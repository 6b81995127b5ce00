"""What users say about answers of a real engine, by the ids that real clients read."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from e2e.conftest import FEEDBACK_TOKEN, TICKET
from e2e.harness import BASE, Admin, Server
from e2e.test_metrics import Page, eventually
from otlp_receiver import Receiver

MESSAGES: Any = [{"role": "user", "content": TICKET}]


def chat(server: Server) -> str:
    client = server.client()
    return client.chat.completions.create(model="support@v3", messages=MESSAGES, max_tokens=2).id


def streamed_chat(server: Server) -> str:
    stream = server.client().chat.completions.create(
        model="support@v3", messages=MESSAGES, max_tokens=2, stream=True
    )
    return {chunk.id for chunk in stream}.pop()


def completion(server: Server) -> str:
    client = server.client()
    return client.completions.create(model="support@v3", prompt=TICKET, max_tokens=2, n=2).id


def response(server: Server) -> str:
    client = server.client()
    return client.responses.create(
        model="support@v3", input=TICKET, max_output_tokens=16, store=False
    ).id


def message(server: Server) -> str:
    client = server.messages_client()
    return client.messages.create(model="support@v3", messages=MESSAGES, max_tokens=2).id


@pytest.fixture
def application(server: Server) -> Callable[..., httpx.Response]:
    """An application that may send feedback and nothing else."""

    def call(path: str, **body: Any) -> httpx.Response:
        return httpx.post(
            f"{server.url}/softprompts/v1{path}",
            json=body,
            headers={"authorization": f"Bearer {FEEDBACK_TOKEN}"},
            timeout=60,
        )

    return call


@pytest.mark.parametrize("ask", [chat, streamed_chat, completion, response, message])
def test_every_client_reads_an_id_that_leads_to_the_version(
    server: Server,
    support: dict[str, dict[str, Any]],
    application: Callable[..., httpx.Response],
    ask: Callable[[Server], str],
) -> None:
    answer = application("/feedback", response_id=ask(server), kind="thumbs_down")
    assert answer.status_code == 201, answer.text
    found = answer.json()["answer"]
    assert (found["prompt"], found["version"]) == ("support", "v3")
    assert found["digest"] == support["v3"]["digest"]


def test_feedback_is_counted_once_and_told_on_the_trace_of_the_answer(
    server: Server,
    admin: Admin,
    spans: Receiver,
    support: dict[str, dict[str, Any]],
    application: Callable[..., httpx.Response],
) -> None:
    assert support
    raw = server.client().chat.completions.with_raw_response.create(
        model="support@v2",
        messages=MESSAGES,
        max_tokens=2,
        extra_headers={"x-softprompt-cohort": "regulated"},
    )
    trace = raw.headers["x-softprompt-trace-id"]
    labels = {"prompt": "support", "version": "v2", "cohort": "regulated"}

    def refunds() -> float:
        series = Page(admin).of("softprompt_feedback_total", **labels, kind="refund")
        return sum(sample.value for sample in series)

    before = refunds()
    told = [
        application("/feedback", trace_id=trace, kind="refund", value=12.5, note="wrong label")
        for _ in range(2)
    ]
    assert [answer.status_code for answer in told] == [201, 200]
    judged = application("/evaluations", response_id=raw.parse().id, evaluation="tone", passed=True)
    assert judged.status_code == 201
    eventually(lambda: refunds() == before + 1)
    assert Page(admin).of("softprompt_eval_results_total", **labels, evaluation="tone")
    (given,) = spans.wait_for(
        lambda span: span.trace_id == trace and "softprompt.feedback" in span.events
    )
    assert given.events["softprompt.feedback"] == {
        "softprompt.feedback.kind": "refund",
        "softprompt.feedback.value": 12.5,
    }
    said = admin.http.get(f"/responses/{raw.parse().id}").json()
    assert said["feedback"][0]["note"] == "wrong label"
    assert "wrong label" not in repr(spans.received)


def test_an_answer_of_the_base_model_belongs_to_no_version(
    server: Server, application: Callable[..., httpx.Response]
) -> None:
    answer = server.client().chat.completions.create(
        model=BASE,
        messages=MESSAGES,
        max_tokens=2,
        extra_headers={"x-request-id": uuid.uuid4().hex},
    )
    told = application("/feedback", response_id=answer.id, kind="thumbs_up")
    assert (told.status_code, told.json()["error"]["code"]) == (404, "response_not_found")
