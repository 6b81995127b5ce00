from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from evaluation.conftest import Evaluation, item, items
from evaluation.fake_endpoint import BASE, Fake, digest, refusal

from softprompt_serve.evaluation.asking import Aborted, Usage, retry_after
from softprompt_serve.evaluation.dataset import parse_item
from softprompt_serve.evaluation.replies import Reply


def only(results: object) -> Reply:
    (reply,) = results.replies.values()  # type: ignore[attr-defined]
    return reply


def test_an_answer_is_put_together_from_its_stream(evaluate: Evaluation) -> None:
    reply = only(evaluate([item("Where is it?")], ["v1"]))
    assert reply.text == "v1 says Where is it?"
    assert reply.answer.error is None


def test_an_answer_has_its_times_and_its_tokens(evaluate: Evaluation) -> None:
    answer = only(evaluate([item()], ["v1"])).answer
    assert answer.ttft_seconds is not None
    assert answer.e2e_seconds is not None
    assert 0 < answer.ttft_seconds <= answer.e2e_seconds
    counts = (answer.visible_tokens, answer.virtual_tokens, answer.output_tokens)
    assert counts == (30, 20, 4)


def test_the_time_to_the_first_token_has_the_wait_for_it(evaluate: Evaluation, fake: Fake) -> None:
    fake.delay = 0.2
    answer = only(evaluate([item()], ["v1"])).answer
    assert answer.ttft_seconds is not None
    assert answer.ttft_seconds >= 0.2


def test_a_cost_is_worked_out_from_the_tokens(evaluate: Evaluation) -> None:
    seen: list[Usage] = []

    def cost(usage: Usage) -> float:
        seen.append(usage)
        return 0.25

    assert only(evaluate([item()], ["v1"], cost=cost)).answer.cost_usd == 0.25
    assert seen == [Usage(30, 20, 10, 4)]


def test_a_completion_is_asked_for_items_with_a_prompt(evaluate: Evaluation, fake: Fake) -> None:
    reply = only(evaluate([parse_item({"prompt": "Once upon"})], ["v1"]))
    assert reply.text == "v1 says Once upon"
    assert fake.bodies[0]["prompt"] == "Once upon"
    assert "messages" not in fake.bodies[0]


def test_every_version_is_sent_the_same_but_for_its_name(evaluate: Evaluation, fake: Fake) -> None:
    tools = [{"type": "function", "function": {"name": "find"}}]
    evaluate([item(tools=tools, tool_choice="auto")], ["v1", "v2", "base"])
    models = {body.pop("model") for body in fake.bodies}
    assert models == {"support@v1", "support@v2", BASE}
    assert fake.bodies[0] == fake.bodies[1] == fake.bodies[2]
    assert fake.bodies[0]["tools"] == tools
    assert fake.bodies[0]["seed"] == 0


def test_tool_calls_are_put_together_from_their_parts(evaluate: Evaluation, fake: Fake) -> None:
    parts = [{"name": "find", "arguments": '{"or'}, {"arguments": 'der": 1}'}]
    fake.rule = lambda version, body: [
        {"tool_calls": [{"index": 0, "function": part}]} for part in parts
    ]
    (call,) = only(evaluate([item()], ["v1"])).tool_calls
    assert (call.name, call.parsed()) == ("find", {"order": 1})


def test_requests_declare_their_cohort_and_route(evaluate: Evaluation, fake: Fake) -> None:
    evaluate([item(cohort="regulated")], ["v1"], route="nightly")
    assert fake.headers[0]["x-softprompt-cohort"] == "regulated"
    assert fake.headers[0]["x-softprompt-route"] == "nightly"


@pytest.mark.parametrize("cohort", ["default", "long_context", "tool_calling"])
def test_a_cohort_that_the_server_derives_is_not_declared(
    evaluate: Evaluation, fake: Fake, cohort: str
) -> None:
    evaluate([item(cohort=cohort)], ["v1"])
    assert "x-softprompt-cohort" not in fake.headers[0]


def test_the_key_is_sent_as_bearer_token(evaluate: Evaluation, fake: Fake) -> None:
    evaluate([item()], ["v1"], key="secret")
    assert fake.headers[0]["authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    ("lies", "said"),
    [
        ({"x-softprompt-version": "v2"}, "support@v2"),
        ({"x-softprompt-name": "sales"}, "sales@v1"),
        ({"x-softprompt-digest": digest("v2")}, digest("v2")),
    ],
)
def test_an_answer_of_another_version_stops_the_run_and_is_not_kept(
    evaluate: Evaluation, fake: Fake, lies: dict[str, str], said: str
) -> None:
    fake.lies = lies
    with pytest.raises(Aborted, match="not its own") as stopped:
        evaluate([item()], ["v1"])
    assert stopped.value.code == "wrong_version"
    assert said in stopped.value.message
    assert '"type":"answer"' not in evaluate.path.read_text()


def test_an_answer_without_headers_is_no_versions(evaluate: Evaluation, fake: Fake) -> None:
    fake.mistakes["support@v1"] = BASE
    with pytest.raises(Aborted, match="no version"):
        evaluate([item()], ["v1"])


def test_an_answer_of_a_prompt_is_not_the_base_models(evaluate: Evaluation, fake: Fake) -> None:
    fake.mistakes[BASE] = "support@v1"
    with pytest.raises(Aborted, match="'support'"):
        evaluate([item()], ["base"])


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again(evaluate: Evaluation, fake: Fake, status: int) -> None:
    busy = [refusal(status, retry_after="0"), refusal(status)]
    fake.rule = lambda version, body: busy.pop() if busy else "yes"
    assert only(evaluate([item()], ["v1"])).text == "yes"


def test_a_server_says_when_to_ask_again(evaluate: Evaluation, fake: Fake) -> None:
    busy = [refusal(503, retry_after="1")]
    fake.rule = lambda version, body: busy.pop() if busy else "yes"
    began = time.monotonic()
    evaluate([item()], ["v1"])
    assert time.monotonic() - began >= 1.0


def test_the_wait_before_a_retry_is_not_the_versions_latency(
    evaluate: Evaluation, fake: Fake
) -> None:
    busy = [refusal(503, retry_after="1")]
    fake.rule = lambda version, body: busy.pop() if busy else "yes"
    answer = only(evaluate([item()], ["v1"])).answer
    assert answer.e2e_seconds is not None
    assert answer.e2e_seconds < 0.9


def test_a_server_that_stays_busy_is_an_error_of_the_item(evaluate: Evaluation, fake: Fake) -> None:
    fake.rule = lambda version, body: refusal(503)
    answer = only(evaluate([item()], ["v1"], attempts=2)).answer
    assert answer.error == "busy"
    assert answer.e2e_seconds is None


@pytest.mark.parametrize(
    ("response", "code"),
    [
        (refusal(400, "context_length_exceeded"), "context_length_exceeded"),
        (refusal(400, 400), "http_400"),
        (refusal(500, None, x_softprompt_error="softprompt_lost"), "softprompt_lost"),
        (refusal(422, "Odd Code!"), "odd_code"),
    ],
)
def test_a_refusal_is_an_error_of_the_item_with_its_code(
    evaluate: Evaluation, fake: Fake, response: object, code: str
) -> None:
    fake.rule = lambda version, body: response
    results = evaluate([item()], ["v1"])
    assert only(results).answer.error == code
    assert results.ended_at is not None


def test_a_failure_of_one_item_leaves_the_others_alone(evaluate: Evaluation, fake: Fake) -> None:
    fake.rule = lambda version, body: (
        refusal(500) if body["messages"][-1]["content"] == "question 1" else "yes"
    )
    results = evaluate(items(3), ["v1"])
    assert {key[0]: r.answer.error for key, r in results.replies.items()} == {
        "item-0": None,
        "item-1": "http_500",
        "item-2": None,
    }


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_that_every_item_would_meet_stops_the_run(
    evaluate: Evaluation, fake: Fake, status: int
) -> None:
    fake.rule = lambda version, body: refusal(status, "no")
    with pytest.raises(Aborted, match=str(status)) as stopped:
        evaluate([item()], ["v1"])
    assert stopped.value.code == "endpoint_refused"


def test_an_answer_that_never_ends_is_a_timeout(evaluate: Evaluation, fake: Fake) -> None:
    fake.delay = 5.0
    answer = only(evaluate([item()], ["v1"], timeout_seconds=0.2)).answer
    assert answer.error == "timeout"


def test_a_stream_that_breaks_off_is_no_answer(evaluate: Evaluation, fake: Fake) -> None:
    fake.cut = True
    assert only(evaluate([item()], ["v1"])).answer.error == "incomplete_answer"


def test_a_server_that_is_not_there_stops_the_run(evaluate: Evaluation) -> None:
    evaluate.url = "http://127.0.0.1:9"
    with pytest.raises(Aborted, match="can't be reached") as stopped:
        evaluate([item()], ["v1"], attempts=1)
    assert stopped.value.code == "endpoint_lost"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, 0.0), ("3", 3.0), ("999", 60.0), ("soon", 0.0), (formatdate(0, usegmt=True), 0.0)],
)
def test_retry_after_is_read_within_reason(value: str | None, seconds: float) -> None:
    assert retry_after(value) == seconds


def test_retry_after_may_be_a_date() -> None:
    assert 5.0 < retry_after(formatdate(time.time() + 10, usegmt=True)) <= 10.0
