"""Streaming, tools, n, logprobs, structured output, stop, Responses and Messages: as vLLM has them."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
import torch
from e2e.conftest import TICKET
from e2e.harness import Server
from e2e.reference import Reference

TOKENS = 12
MESSAGES = [{"role": "user", "content": TICKET}]
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up_order",
        "description": "Look up an order",
        "parameters": {
            "type": "object",
            "properties": {"order": {"type": "integer"}},
            "required": ["order"],
        },
    },
}


@pytest.fixture(scope="module")
def client(server: Server, support: dict[str, Any]) -> openai.OpenAI:
    return server.client()


@pytest.fixture(scope="module")
def wanted(reference: Reference, rows: dict[str, torch.Tensor]) -> str:
    return reference.answer(reference.chat_ids(TICKET), rows["v2"], tokens=TOKENS)


def test_responses_answer_the_same(client: openai.OpenAI, wanted: str) -> None:
    raw = client.responses.with_raw_response.create(
        model="support", input=TICKET, temperature=0, max_output_tokens=TOKENS
    )
    assert raw.parse().output_text == wanted
    assert raw.parse().model == "support@v2"
    assert raw.headers["x-softprompt-version"] == "v2"


def test_streamed_responses_answer_the_same(client: openai.OpenAI, wanted: str) -> None:
    events = client.responses.create(
        model="support", input=TICKET, temperature=0, max_output_tokens=TOKENS, stream=True
    )
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == wanted


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_anthropics_messages_answer_the_same(server: Server, wanted: str, stream: bool) -> None:
    client = server.messages_client()
    request: dict[str, Any] = {
        "model": "support",
        "messages": MESSAGES,
        "max_tokens": TOKENS,
        "extra_body": {"temperature": 0},
    }
    if stream:
        with client.messages.stream(**request) as events:
            text = "".join(events.text_stream)
    else:
        message = client.messages.create(**request)
        assert message.model == "support@v2"
        text = message.content[0].text
    assert text == wanted


def test_a_hard_version_reaches_responses_and_messages(
    client: openai.OpenAI, server: Server, reference: Reference, hard_text: str
) -> None:
    messages = [{"role": "system", "content": hard_text}, *MESSAGES]
    ids = reference.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=True
    )["input_ids"]
    text = reference.answer(ids, tokens=TOKENS)
    response = client.responses.create(
        model="support@v1", input=TICKET, temperature=0, max_output_tokens=TOKENS
    )
    assert response.output_text == text
    message = server.messages_client().messages.create(
        model="support@v1",
        messages=MESSAGES,
        max_tokens=TOKENS,
        extra_body={"temperature": 0},
    )
    assert message.content[0].text == text


def test_n_gives_n_choices_of_the_same_version(client: openai.OpenAI, wanted: str) -> None:
    sampled = client.chat.completions.create(
        model="support", messages=MESSAGES, n=3, temperature=1.0, seed=1, max_tokens=TOKENS
    )
    assert [choice.index for choice in sampled.choices] == [0, 1, 2]
    # vLLM refuses n > 1 at temperature 0; this is as good as greedy.
    greedy = client.chat.completions.create(
        model="support", messages=MESSAGES, n=2, temperature=0.001, max_tokens=TOKENS
    )
    assert [choice.message.content for choice in greedy.choices] == [wanted, wanted]


def test_logprobs_are_given_for_the_answer_only(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="support", messages=MESSAGES, logprobs=True, top_logprobs=3, max_tokens=4
    )
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    assert all(len(token.top_logprobs) == 3 for token in content)


def test_structured_output_obeys_its_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"label": {"enum": ["billing", "shipping"]}},
        "required": ["label"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model="support",
        messages=MESSAGES,
        temperature=0,
        max_tokens=40,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "label", "schema": schema, "strict": True},
        },
    )
    assert json.loads(answer.choices[0].message.content)["label"] in {"billing", "shipping"}


def test_a_required_tool_is_called(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="support",
        messages=MESSAGES,
        tools=[TOOL],
        tool_choice={"type": "function", "function": {"name": "look_up_order"}},
        temperature=0,
        max_tokens=200,  # this small model takes a while to close its arguments
    )
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "look_up_order"
    assert answer.model == "support@v2"


def test_stop_and_max_tokens_end_the_answer(client: openai.OpenAI) -> None:
    one = client.completions.create(
        model="support", prompt="One two three four", temperature=0, max_tokens=1
    )
    assert one.choices[0].finish_reason == "length"
    assert one.usage.completion_tokens == 1
    first = one.choices[0].text
    stopped = client.completions.create(
        model="support", prompt="One two three four", temperature=0, max_tokens=8, stop=[first]
    )
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].text == ""


def test_several_prompts_in_one_completion_each_get_the_rows(
    client: openai.OpenAI, reference: Reference, rows: dict[str, torch.Tensor]
) -> None:
    texts = ["Hello there", TICKET, "My card was charged"]
    answer = client.completions.create(
        model="support@v3", prompt=texts, temperature=0, max_tokens=8
    )
    for choice, text in zip(answer.choices, texts, strict=True):
        ids = reference.text_ids(text)
        assert choice.text == reference.answer(ids, rows["v3"], tokens=8)


def test_token_ids_as_a_prompt_get_the_rows_too(
    client: openai.OpenAI, reference: Reference, rows: dict[str, torch.Tensor]
) -> None:
    ids = reference.text_ids("My card was charged twice")
    answer = client.completions.create(model="support@v2", prompt=ids, temperature=0, max_tokens=8)
    assert answer.choices[0].text == reference.answer(ids, rows["v2"], tokens=8)


def test_streamed_usage_comes_last(client: openai.OpenAI, reference: Reference) -> None:
    chunks = list(
        client.chat.completions.create(
            model="support",
            messages=MESSAGES,
            max_tokens=3,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[-1].usage.prompt_tokens == 20 + len(reference.chat_ids(TICKET))
    assert {chunk.model for chunk in chunks} == {"support@v2"}
