"""Spans of a real server, as a collector gets them: ours, and vLLM's own below them."""

from __future__ import annotations

import uuid
from typing import Any

import openai
import pytest
from e2e.conftest import TICKET
from e2e.harness import BASE, Admin, Server
from otlp_receiver import Received, Receiver

SERVER = 2  # OTLP's SPAN_KIND_SERVER
MESSAGES: Any = [{"role": "user", "content": TICKET}]


class Caller:
    """An application that traces its own calls."""

    def __init__(self) -> None:
        self.trace_id, self.span_id = uuid.uuid4().hex, uuid.uuid4().hex[:16]

    @property
    def headers(self) -> dict[str, str]:
        return {"traceparent": f"00-{self.trace_id}-{self.span_id}-01"}

    def ours(self, spans: Receiver) -> Received:
        """The one server span of this call."""

        def wanted(span: Received) -> bool:
            return (
                span.trace_id == self.trace_id
                and span.kind == SERVER
                and span.parent_id == (self.span_id)
            )

        (found,) = spans.wait_for(wanted)
        return found


def engines(spans: Receiver, parent: Received) -> Received:
    """VLLM's own span below ``parent``."""
    (found,) = spans.wait_for(
        lambda span: span.name == "llm_request" and span.parent_id == parent.span_id
    )
    assert found.trace_id == parent.trace_id
    return found


def test_a_streamed_answer_is_one_unbroken_trace_that_names_its_version(
    server: Server, support: dict[str, dict[str, Any]], spans: Receiver
) -> None:
    caller = Caller()
    raw = server.client().chat.completions.with_raw_response.create(
        model="support",
        messages=MESSAGES,
        temperature=0,
        max_tokens=8,
        stream=True,
        stream_options={"include_usage": True},
        extra_headers=caller.headers,
    )
    chunks = list(raw.parse())
    usage = chunks[-1].usage
    assert usage is not None
    assert raw.headers["x-softprompt-trace-id"] == caller.trace_id
    found = caller.ours(spans)
    told = found.attributes
    assert found.name == "chat support"
    assert told["softprompt.digest"] == support["v2"]["digest"]
    assert (told["gen_ai.prompt.version"], told["gen_ai.response.model"]) == ("v2", "support@v2")
    assert told["gen_ai.response.id"] == chunks[0].id
    assert told["softprompt.virtual_tokens"] == 20
    assert told["llm.token_count.prompt"] == usage.prompt_tokens - 20
    assert told["gen_ai.usage.input_tokens"] == usage.prompt_tokens
    assert told["llm.token_count.completion"] == usage.completion_tokens
    assert told["gen_ai.response.finish_reasons"] in (["length"], ["stop"])
    assert 0 < told["gen_ai.response.time_to_first_chunk"] < found.seconds
    assert "softprompt.first_token" in found.events
    assert "error.type" not in told
    assert engines(spans, found).attributes["gen_ai.usage.prompt_tokens"] == usage.prompt_tokens
    assert not {"input.value", "output.value"} & told.keys()


def test_other_routes_and_the_base_model_are_traced_too(
    server: Server, support: dict[str, dict[str, Any]], spans: Receiver
) -> None:
    assert support
    caller = Caller()
    client = server.client()
    answer = client.completions.create(
        model="support", prompt=TICKET, max_tokens=2, extra_headers=caller.headers
    )
    found = caller.ours(spans)
    assert found.name == "text_completion support"
    assert found.attributes["gen_ai.response.id"] == answer.id
    base = Caller()
    client.chat.completions.create(
        model=BASE, messages=MESSAGES, max_tokens=2, extra_headers=base.headers
    )
    told = base.ours(spans)
    assert "softprompt.name" not in told.attributes
    engines(spans, told)


def test_a_refusal_is_traced_with_its_code(
    server: Server, support: dict[str, dict[str, Any]], spans: Receiver
) -> None:
    assert support
    caller = Caller()
    with pytest.raises(openai.NotFoundError) as caught:
        server.client().chat.completions.create(
            model="support@v99", messages=MESSAGES, extra_headers=caller.headers
        )
    assert caught.value.response.headers["x-softprompt-trace-id"] == caller.trace_id
    told = caller.ours(spans)
    assert told.attributes["error.type"] == "version_not_found"
    assert told.attributes["http.response.status_code"] == 404
    assert told.status == 0


def test_a_client_that_goes_away_ends_its_span(
    server: Server, support: dict[str, dict[str, Any]], spans: Receiver
) -> None:
    assert support
    caller = Caller()
    stream = server.client().chat.completions.create(
        model="support",
        messages=MESSAGES,
        max_tokens=1500,
        stream=True,
        extra_headers=caller.headers,
        extra_body={"ignore_eos": True},
    )
    next(iter(stream))
    stream.close()
    told = caller.ours(spans)
    assert told.attributes["http.response.status_code"] == 499
    assert told.attributes["error.type"] == "http_499"
    assert told.status == 0


def test_a_swap_is_a_span_of_its_own(admin: Admin, spans: Receiver) -> None:
    name = f"swapped-{uuid.uuid4().hex[:6]}"
    for text in ("Be brief.", "Be kind."):
        admin.imported(name, kind="hard", text=text)
    admin.alias(name, "production", "v1")
    admin.alias(name, "production", "v2")
    found = spans.wait_for(lambda span: span.name == f"alias {name}", count=2)[1].attributes
    assert found["softprompt.version"] == "v2"
    assert found["softprompt.operation.previous"] == "v1"


def test_a_shadow_is_linked_with_the_answer_that_it_copies(
    server: Server, support: dict[str, dict[str, Any]], admin: Admin, spans: Receiver
) -> None:
    assert support
    name = f"shadowed-{uuid.uuid4().hex[:6]}"
    for text in ("Be brief.", "Be kind."):
        admin.imported(name, kind="hard", text=text)
    admin.alias(name, "production", "v1")
    shadow = {"version": "v2", "sample": 1.0, "max_tokens_per_second": 10_000}
    document = {"arms": [{"version": "v1", "weight": 1}], "shadow": shadow}
    assert admin.http.put(f"/prompts/{name}/rollout", json=document).status_code == 200
    caller = Caller()
    server.client().chat.completions.create(
        model=name, messages=MESSAGES, max_tokens=4, extra_headers=caller.headers
    )
    user = caller.ours(spans)
    (copy,) = spans.wait_for(lambda span: span.name == f"shadow {name}")
    assert copy.links == [(user.trace_id, user.span_id)]
    assert copy.trace_id != user.trace_id
    assert copy.attributes["softprompt.shadow.outcome"] == "done"
    assert copy.attributes["softprompt.version"] == "v2"
    engines(spans, copy)
