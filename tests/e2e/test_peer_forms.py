"""A soft version, a hard one and the base model are one and the same vLLM: answers have one form.

Status, headers, JSON paths with their types, and the sequence of events are equal. What differs is in
values: `model`, the prompt's token counts; in what is ours by name, the `x-softprompt-*` headers; and
in a Response's `instructions`, which are a hard version's text.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import openai
import pytest
from e2e.conftest import TICKET
from e2e.forms import Form, ask, form_of
from e2e.harness import BASE, Server

CHAT = "/chat/completions"
TEXT = "/completions"
RESPONSES = "/responses"
USER = [{"role": "user", "content": TICKET}]
LABEL = {
    "type": "object",
    "properties": {"label": {"enum": ["billing", "shipping"]}},
    "required": ["label"],
    "additionalProperties": False,
}
FUNCTION = {"name": "sort_ticket", "description": "Sort a ticket", "parameters": LABEL}
TOOL = {"type": "function", "function": FUNCTION}
NAMED = {"type": "function", "function": {"name": "sort_ticket"}}
LOGPROBS = ".choices[].logprobs"
CALL_DELTA = ".choices[].delta.tool_calls[].function.arguments"

GIVEN: dict[str, dict[str, Any]] = {
    CHAT: {"messages": USER, "max_tokens": 4, "temperature": 0, "ignore_eos": True},
    TEXT: {"prompt": TICKET, "max_tokens": 4, "temperature": 0, "ignore_eos": True},
    RESPONSES: {"input": TICKET, "max_output_tokens": 1, "temperature": 0},
}
"""All are cut off at the same length, whatever they would say."""


@dataclass(frozen=True)
class Case:
    """A request, and by what it is seen to have been understood.

    Attributes:
        path: the route.
        body: what is asked beside `GIVEN`; None takes a field away.
        has: paths that the answer must have.
        status: the answer's.
        hard: whether a text can be added to it.
    """

    path: str
    body: dict[str, Any] = field(default_factory=dict)
    has: tuple[str, ...] = ()
    status: int = 200
    hard: bool = True

    def request(self, model: str) -> dict[str, Any]:
        asked = {"model": model, **GIVEN[self.path], **self.body}
        return {name: value for name, value in asked.items() if value is not None}


UNCUT = {"max_tokens": 160, "ignore_eos": None, "frequency_penalty": 1.5}
"""For what ends by its grammar; the penalty keeps a small model from white space without end."""

CUT = {"max_tokens": 4, "ignore_eos": True}
OFTEN = {"stop": [" ", "a", "e", "\n"], "max_tokens": 32}


def structured(**how: Any) -> dict[str, Any]:
    return {"structured_outputs": how, **UNCUT}


def schema(body: dict[str, Any]) -> dict[str, Any]:
    return {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "label", "schema": body},
        },
        **UNCUT,
    }


def tools(choice: Any, **more: Any) -> dict[str, Any]:
    return {"tools": [TOOL], "tool_choice": choice, **UNCUT, **more}


STREAM = {"stream": True}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
EACH_USAGE = {
    "stream": True,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
}
TWO = {"n": 2, "temperature": 0.7, "seed": 5}
FORMAT = {"format": {"type": "json_schema", "name": "label", "schema": LABEL}}
RESPONSE_TOOL = {"type": "function", **FUNCTION, "strict": False}

CASES = {
    "chat": Case(CHAT, has=(".choices[].message.content", ".usage.prompt_tokens")),
    "chat, streamed": Case(CHAT, STREAM, (".choices[].delta.content",)),
    "chat, usage at the end": Case(CHAT, USAGE, (".usage.total_tokens",)),
    "chat, usage with each": Case(CHAT, EACH_USAGE, (".usage.total_tokens",)),
    "chat, two choices": Case(CHAT, TWO, (".choices[].index",)),
    "chat, two choices streamed": Case(CHAT, {**TWO, **USAGE}, (".choices[].index",)),
    "chat, logprobs": Case(
        CHAT, {"logprobs": True, "top_logprobs": 2}, (f"{LOGPROBS}.content[].top_logprobs[].bytes",)
    ),
    "chat, logprobs streamed": Case(
        CHAT,
        {"logprobs": True, "top_logprobs": 2, **STREAM},
        (f"{LOGPROBS}.content[].top_logprobs[].bytes",),
    ),
    "chat, stop": Case(CHAT, OFTEN, (".choices[].stop_reason",)),
    "chat, stop streamed": Case(CHAT, {**OFTEN, **STREAM}),
    "chat, max_completion_tokens": Case(CHAT, {"max_tokens": None, "max_completion_tokens": 2}),
    "chat, a conversation": Case(
        CHAT,
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
                {"role": "assistant", "content": "Hello."},
                *USER,
            ]
        },
    ),
    "chat, penalties, bias and seed": Case(
        CHAT,
        {"frequency_penalty": 0.5, "logit_bias": {"20": 1}, "seed": 7, "temperature": 0.7},
    ),
    "chat, JSON schema": Case(CHAT, schema(LABEL)),
    "chat, JSON schema streamed": Case(CHAT, schema(LABEL) | STREAM),
    "chat, JSON object": Case(CHAT, {"response_format": {"type": "json_object"}}),
    "chat, regex": Case(CHAT, structured(regex="[a-c]{3}")),
    "chat, choice": Case(CHAT, structured(choice=["yes", "no"])),
    "chat, choice streamed": Case(CHAT, structured(choice=["yes", "no"]) | STREAM),
    "chat, tools left to it": Case(CHAT, tools("auto", **CUT)),
    "chat, tools left to it, streamed": Case(CHAT, tools("auto", **CUT, stream=True)),
    "chat, no tools": Case(CHAT, tools("none", **CUT)),
    "chat, some tool, cut off": Case(CHAT, tools("required", **CUT)),
    "chat, some tool streamed": Case(CHAT, tools("required", stream=True), (CALL_DELTA,)),
    "chat, that tool, cut off": Case(CHAT, tools(NAMED, **CUT)),
    "chat, that tool streamed": Case(CHAT, tools(NAMED, stream=True), (CALL_DELTA,)),
    "completion": Case(TEXT, has=(".choices[].text", ".usage.prompt_tokens")),
    "completion, streamed": Case(TEXT, STREAM, (".choices[].text",)),
    "completion, usage at the end": Case(TEXT, USAGE, (".usage.total_tokens",)),
    "completion, usage with each": Case(TEXT, EACH_USAGE, (".usage.total_tokens",)),
    "completion, two choices": Case(TEXT, TWO, (".choices[].index",)),
    "completion, logprobs": Case(TEXT, {"logprobs": 2}, (f"{LOGPROBS}.top_logprobs[]",)),
    "completion, logprobs streamed": Case(
        TEXT, {"logprobs": 2, **STREAM}, (f"{LOGPROBS}.top_logprobs[]",)
    ),
    "completion, stop": Case(TEXT, OFTEN, (".choices[].stop_reason",)),
    "completion, two prompts": Case(TEXT, {"prompt": [TICKET, "Hello"]}),
    "completion, token ids": Case(TEXT, {"prompt": [100, 200, 300]}, hard=False),
    "completion, regex": Case(TEXT, structured(regex="[a-c]{3}")),
    "response": Case(RESPONSES, has=(".output[].content[].text", ".usage.input_tokens")),
    "response, streamed": Case(RESPONSES, STREAM, (".delta", ".response.usage.input_tokens")),
    "response, instructions": Case(RESPONSES, {"instructions": "Be brief."}),
    "response, a conversation": Case(RESPONSES, {"input": [{"type": "message", **USER[0]}]}),
    "response, JSON schema": Case(RESPONSES, {"text": FORMAT}),
    "response, tools left to it": Case(RESPONSES, {"tools": [RESPONSE_TOOL]}),
    "wrong: temperature": Case(CHAT, {"temperature": 9}, (".error.message",), 400),
    "wrong: temperature of a stream": Case(
        CHAT, {"temperature": 9, **STREAM}, (".error.code",), 400
    ),
    "wrong: max_tokens": Case(CHAT, {"max_tokens": -1}, (".error.message",), 400),
    "wrong: a number that is a word": Case(CHAT, {"max_tokens": "x"}, (".error.message",), 400),
    "wrong: messages that are a word": Case(CHAT, {"messages": "x"}, (".error.message",), 400),
    "wrong: no messages": Case(CHAT, {"messages": None}, (".error.message",), 400),
    "wrong: a role": Case(CHAT, {"messages": [{"role": 3}]}, (".error.message",), 400),
    "wrong: top_logprobs alone": Case(CHAT, {"top_logprobs": 2}, (".error.message",), 400),
    "wrong: too many logprobs": Case(
        CHAT, {"logprobs": True, "top_logprobs": 99}, (".error.message",), 400
    ),
    "wrong: several greedy ones": Case(CHAT, {"n": 2}, (".error.message",), 400),
    "wrong: stream_options alone": Case(
        CHAT, {"stream_options": {"include_usage": True}}, (".error.message",), 400
    ),
    "wrong: a tool that isn't there": Case(
        CHAT,
        tools({"type": "function", "function": {"name": "other"}}),
        (".error.message",),
        400,
    ),
    "wrong: tool_choice without tools": Case(
        CHAT, {"tool_choice": "required"}, (".error.message",), 400
    ),
    "wrong: a regex": Case(CHAT, structured(regex="[a-"), (".error.message",), 400),
    "wrong: a schema": Case(CHAT, schema({"type": "nothing"}), (".error.message",), 400),
    "wrong: a completion's logprobs": Case(TEXT, {"logprobs": -5}, (".error.message",), 400),
    "wrong: a response's input": Case(RESPONSES, {"input": 3}, (".error.message",), 400),
    "wrong: a response's top_p": Case(RESPONSES, {"top_p": 3}, (".error.message",), 400),
}

OURS_TO_SAY = {
    "an empty prompt": Case(TEXT, {"prompt": []}),
    "a chat too long": Case(CHAT, {"messages": [{"role": "user", "content": " word" * 2100}]}),
    "a stream too long": Case(TEXT, {"prompt": " word" * 2100, **STREAM}),
    "a response too long": Case(RESPONSES, {"input": " word" * 2100}),
}


@pytest.fixture(scope="module")
def client(server: Server, support: dict[str, Any]) -> openai.OpenAI:
    return server.client()


def forms(client: openai.OpenAI, case: Case, *models: str) -> list[Form]:
    """Those of one request's answers, asked for at once."""
    with ThreadPoolExecutor(len(models)) as pool:
        asked = [pool.submit(ask, client, case.path, case.request(model)) for model in models]
        answers = [one.result() for one in asked]
    for answer in answers:
        assert answer.status_code == answers[0].status_code, answer.text
    return [form_of(answer) for answer in answers]


@pytest.mark.parametrize("name", CASES)
def test_answers_of_soft_hard_and_base_have_one_form(client: openai.OpenAI, name: str) -> None:
    case = CASES[name]
    models = [BASE, "support@v2", *(["support@v1"] if case.hard else [])]
    base, *others = forms(client, case, *models)
    assert base.status == case.status
    assert base.paths >= set(case.has)
    for model, form in zip(models[1:], others, strict=True):
        same, wanted = form, base
        if model == "support@v1":  # a Response repeats its instructions: there, the text's own
            same, wanted = form.without("instructions"), base.without("instructions")
        assert same.differences(wanted) == [], model


@pytest.mark.parametrize("name", OURS_TO_SAY)
def test_what_is_ours_to_refuse_has_the_names_that_vllms_refusal_has(
    client: openai.OpenAI, name: str
) -> None:
    base, hard, soft = forms(client, OURS_TO_SAY[name], BASE, "support@v1", "support@v2")
    assert base.status == 400
    assert hard.names == base.names
    assert soft.names == base.names


@pytest.mark.parametrize("path", GIVEN)
def test_an_unknown_version_is_refused_as_an_unknown_model_is(
    client: openai.OpenAI, path: str
) -> None:
    stranger, version = forms(client, Case(path), "nobody", "support@v9")
    assert (stranger.status, version.names) == (404, stranger.names)
