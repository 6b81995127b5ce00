"""The main server's log, which it writes as JSON with a line for each request."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable
from typing import Any

import openai
import pytest
from e2e.conftest import TICKET
from e2e.harness import BASE, Server

MESSAGES: Any = [{"role": "user", "content": TICKET}]
READY = "softprompt-serve is ready"
WAIT_SECONDS = 10

# PyTorch's C++ parts write warnings to standard error by themselves: `[W1125 09:41:28 file.cpp:1] …`.
NO_LINES_OF_OURS = re.compile(r"\[[WE]\d{3,4} ")

Line = dict[str, Any]


def written(server: Server) -> list[str]:
    """Whole lines from the server's readiness on."""
    lines = server.log.read_text(errors="replace").split("\n")[:-1]
    first = next(place for place, line in enumerate(lines) if READY in line)
    return [line for line in lines[first:] if not NO_LINES_OF_OURS.match(line)]


def parsed(server: Server) -> list[Line]:
    return [json.loads(line) for line in written(server)]


def find(server: Server, wanted: Callable[[Line], bool]) -> Line:
    """The one line that is wanted; it may come just after the answer."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        found = [line for line in parsed(server) if wanted(line)]
        if found or time.monotonic() > deadline:
            (line,) = found
            return line
        time.sleep(0.1)


def ended(server: Server, trace_id: str) -> Line:
    return find(
        server,
        lambda line: line["message"] == "request ended" and line.get("trace_id") == trace_id,
    )


def traced() -> tuple[str, dict[str, str]]:
    trace_id = uuid.uuid4().hex
    return trace_id, {"traceparent": f"00-{trace_id}-{uuid.uuid4().hex[:16]}-01"}


def test_every_line_of_every_process_is_json(
    server: Server, support: dict[str, dict[str, Any]]
) -> None:
    server.client().chat.completions.create(model="support", messages=MESSAGES, max_tokens=2)
    lines = parsed(server)
    heads = {tuple(line)[:6] for line in lines}
    assert heads == {("timestamp", "level", "logger", "message", "process", "pid")}
    writers = {line["logger"].partition(".")[0] for line in lines}
    assert {"softprompt_serve", "vllm", "uvicorn"} <= writers


def test_a_streamed_answer_is_one_line_with_its_ids(
    server: Server, support: dict[str, dict[str, Any]]
) -> None:
    trace_id, headers = traced()
    raw = server.client().chat.completions.with_raw_response.create(
        model="support",
        messages=MESSAGES,
        temperature=0,
        max_tokens=8,
        stream=True,
        stream_options={"include_usage": True},
        extra_headers=headers,
    )
    chunks = list(raw.parse())
    usage = chunks[-1].usage
    assert usage is not None
    assert raw.headers["x-softprompt-trace-id"] == trace_id
    line = ended(server, trace_id)
    assert line["request_id"] == line["response_id"] == chunks[0].id
    assert (line["prompt"], line["version"]) == ("support", "v2")
    assert line["digest"] == support["v2"]["digest"][:12]
    assert line["arm"] == raw.headers["x-softprompt-arm"]
    assert line["reason"] == raw.headers["x-softprompt-reason"]
    assert str(line["generation"]) == raw.headers["x-softprompt-generation"]
    assert (line["status"], line["path"]) == (200, "/v1/chat/completions")
    assert "error" not in line
    assert line["virtual_tokens"] == 20
    assert line["visible_tokens"] == usage.prompt_tokens - 20
    assert line["output_tokens"] == usage.completion_tokens
    assert 0 < line["ttft_seconds"] < line["e2e_seconds"]
    assert line["finish_reasons"] in (["stop"], ["length"])


def test_uvicorns_line_of_the_call_names_version_and_trace(
    server: Server, support: dict[str, dict[str, Any]]
) -> None:
    trace_id, headers = traced()
    server.client().chat.completions.create(
        model="support@v3", messages=MESSAGES, max_tokens=2, extra_headers=headers
    )
    line = find(
        server,
        lambda line: line["logger"] == "uvicorn.access" and line.get("trace_id") == trace_id,
    )
    assert (line["prompt"], line["version"]) == ("support", "v3")
    assert '"POST /v1/chat/completions HTTP/1.1" 200' in line["message"]


def test_a_version_that_does_not_exist_is_a_line_with_its_reason(
    server: Server, support: dict[str, dict[str, Any]]
) -> None:
    trace_id, headers = traced()
    with pytest.raises(openai.NotFoundError) as caught:
        server.client().chat.completions.create(
            model="support@v99", messages=MESSAGES, extra_headers=headers
        )
    line = find(
        server,
        lambda line: line["message"] == "request refused" and line.get("trace_id") == trace_id,
    )
    assert line["prompt"] == "support"
    assert line["error"] == caught.value.response.headers["x-softprompt-error"]


def test_the_base_model_is_no_line_of_a_request(
    server: Server, support: dict[str, dict[str, Any]]
) -> None:
    trace_id, headers = traced()
    server.client().chat.completions.create(
        model=BASE, messages=MESSAGES, max_tokens=2, extra_headers=headers
    )
    line = find(
        server,
        lambda line: line["logger"] == "uvicorn.access" and line.get("trace_id") == trace_id,
    )
    assert "prompt" not in line
    told = [line["message"] for line in parsed(server) if line.get("trace_id") == trace_id]
    assert "request ended" not in told


def test_neither_texts_nor_secrets_are_anywhere_in_the_log(
    server: Server, support: dict[str, dict[str, Any]], hard_text: str
) -> None:
    secret = f"My order is {uuid.uuid4().hex}."
    messages: Any = [{"role": "user", "content": secret}]
    client = server.client()
    for model in ("support@v1", "support@v2", BASE):
        client.chat.completions.create(model=model, messages=messages, max_tokens=4, user=secret)
    with pytest.raises(openai.BadRequestError):  # what is wrong is said to the client alone
        client.chat.completions.create(model="support", messages=messages, temperature=-1)
    assert server.admin().http.get("/prompts").status_code == 200
    log = server.log.read_text(errors="replace")
    assert READY in log
    assert secret not in log
    assert hard_text.splitlines()[0] not in log
    assert server.token() not in log
