"""Served answers equal Transformers, PEFT and native prompt_embeds, token for token."""

from __future__ import annotations

import base64
import io
from typing import Any

import openai
import pytest
import torch
from e2e.conftest import PROMPTS, TICKET
from e2e.harness import BASE, Server
from e2e.reference import Reference, safetensors_bytes
from peft import PeftModel

TEXTS = [
    TICKET,
    "Why was I charged twice for the same subscription?",
    "The capital of France is?",
]
TOKENS = 16
AS_IDS = {"return_tokens_as_token_ids": True}


@pytest.fixture(scope="module")
def client(server: Server, support: dict[str, Any]) -> openai.OpenAI:
    return server.client()


def ids_of(tokens: list[str]) -> list[int]:
    return [int(token.removeprefix("token_id:")) for token in tokens]


def chat(
    client: openai.OpenAI, model: str, text: str, **more: Any
) -> tuple[list[int], list[float]]:
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": text}],
        temperature=0,
        max_tokens=TOKENS,
        logprobs=True,
        top_logprobs=1,
        extra_body=AS_IDS,
        **more,
    )
    if more.get("stream"):
        parts = [c.choices[0].logprobs.content for c in answer if c.choices[0].logprobs]
        content = [token for part in parts for token in part or []]
    else:
        content = answer.choices[0].logprobs.content
    return ids_of([token.token for token in content]), [token.logprob for token in content]


def complete(
    client: openai.OpenAI, model: str, text: Any, **more: Any
) -> tuple[list[int], list[float]]:
    extra = AS_IDS | more.pop("extra_body", {})
    answer = client.completions.create(
        model=model,
        prompt=text,
        temperature=0,
        max_tokens=TOKENS,
        logprobs=1,
        extra_body=extra,
        **more,
    )
    chunks = list(answer) if more.get("stream") else [answer]
    found = [c.choices[0].logprobs for c in chunks if c.choices and c.choices[0].logprobs]
    tokens = [token for part in found for token in part.tokens]
    return ids_of(tokens), [value for part in found for value in part.token_logprobs]


def without_end(ids: list[int], reference: Reference) -> list[int]:
    return [token for token in ids if token != reference.model.config.eos_token_id]


def check_greedy(
    found: tuple[list[int], list[float]],
    reference: Reference,
    visible: list[int],
    rows: torch.Tensor,
) -> None:
    """The answer's ids are Transformers' own, and its first log-probability is close to theirs."""
    ids, logprobs = found
    assert without_end(ids, reference) == reference.greedy(visible, rows, tokens=TOKENS)
    first = reference.first_logprobs(visible, rows)[ids[0]]
    assert logprobs[0] == pytest.approx(first.item(), abs=2e-3)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("version", ["v2", "v3"])
def test_chat_answers_what_transformers_answers(
    client: openai.OpenAI,
    reference: Reference,
    rows: dict[str, torch.Tensor],
    version: str,
    stream: bool,
) -> None:
    for text in TEXTS:
        found = chat(client, f"support@{version}", text, stream=stream)
        check_greedy(found, reference, reference.chat_ids(text), rows[version])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("version", ["v2", "v3"])
def test_completions_answer_what_transformers_answers(
    client: openai.OpenAI,
    reference: Reference,
    rows: dict[str, torch.Tensor],
    version: str,
    stream: bool,
) -> None:
    for text in TEXTS:
        found = complete(client, f"support@{version}", text, stream=stream)
        check_greedy(found, reference, reference.text_ids(text), rows[version])


def check_as_peft(
    client: openai.OpenAI, model: str, tuned: PeftModel, reference: Reference, texts: list[str]
) -> None:
    """Each answer's ids are those of PEFT's own ``generate``."""
    for text in texts:
        visible = torch.tensor([reference.chat_ids(text)])
        with torch.inference_mode():
            out = tuned.generate(
                input_ids=visible,
                attention_mask=torch.ones_like(visible),
                max_new_tokens=TOKENS,
                do_sample=False,
            )
        expected = without_end(out[0, visible.shape[1] :].tolist(), reference)
        ids, _ = chat(client, model, text)
        assert without_end(ids, reference) == expected


@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")  # PEFT's own
@pytest.mark.parametrize("version", ["v2", "v3"])
def test_chat_answers_what_peft_answers(
    client: openai.OpenAI, reference: Reference, version: str
) -> None:
    tuned = PeftModel.from_pretrained(reference.model, PROMPTS / f"support-{version}").eval()
    check_as_peft(client, f"support@{version}", tuned, reference, TEXTS)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("version", ["v2", "v3"])
def test_the_overlay_equals_native_prompt_embeds_on_the_same_engine(
    client: openai.OpenAI,
    reference: Reference,
    rows: dict[str, torch.Tensor],
    version: str,
    stream: bool,
) -> None:
    for text in TEXTS:
        buffer = io.BytesIO()
        torch.save(reference.embeddings(reference.text_ids(text), rows[version]), buffer)
        embeds = base64.b64encode(buffer.getvalue()).decode()
        native, native_logprobs = complete(
            client, BASE, None, stream=stream, extra_body={"prompt_embeds": embeds}
        )
        ours, logprobs = complete(client, f"support@{version}", text, stream=stream)
        assert ours == native
        assert logprobs == pytest.approx(native_logprobs, abs=2e-3)


def test_the_prompts_own_name_answers_as_production(client: openai.OpenAI) -> None:
    assert chat(client, "support", TICKET) == chat(client, "support@v2", TICKET)
    assert chat(client, "support@production", TICKET) == chat(client, "support@v2", TICKET)


def test_the_base_model_answers_as_without_us(client: openai.OpenAI, reference: Reference) -> None:
    for text in TEXTS:
        ids, _ = chat(client, BASE, text)
        assert without_end(ids, reference) == reference.greedy(
            reference.chat_ids(text), tokens=TOKENS
        )


def test_a_hard_version_answers_as_its_text_as_system_message(
    client: openai.OpenAI, hard_text: str
) -> None:
    messages = [{"role": "system", "content": hard_text}, {"role": "user", "content": TICKET}]
    own = client.chat.completions.create(
        model=BASE, messages=messages, temperature=0, max_tokens=TOKENS
    )
    ours = client.chat.completions.create(
        model="support@v1", messages=messages[1:], temperature=0, max_tokens=TOKENS
    )
    assert ours.choices[0].message.content == own.choices[0].message.content
    assert ours.usage.prompt_tokens == own.usage.prompt_tokens


def test_a_hard_versions_text_comes_before_a_completions_own(
    client: openai.OpenAI, hard_text: str
) -> None:
    own, _ = complete(client, BASE, f"{hard_text}\n\n{TICKET}")
    ours, _ = complete(client, "support@v1", TICKET)
    assert ours == own


def test_a_base_version_adds_nothing(client: openai.OpenAI, server: Server) -> None:
    server.admin().imported("plain", version="v0", kind="base")
    assert chat(client, "plain@v0", TICKET) == chat(client, BASE, TICKET)


def test_a_mixed_version_adds_its_rows_and_then_its_text(
    client: openai.OpenAI, server: Server, reference: Reference
) -> None:
    rows = reference.random_rows(9, seed=5)
    text = "Answer in one word."
    server.admin().imported("mixed", safetensors_bytes(rows), version="v1", text=text)
    messages = [{"role": "system", "content": text}, {"role": "user", "content": TICKET}]
    visible = reference.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=True
    )["input_ids"]
    ids, _ = chat(client, "mixed@v1", TICKET)
    assert without_end(ids, reference) == reference.greedy(visible, rows, tokens=TOKENS)


def test_usage_counts_virtual_and_visible_tokens(
    client: openai.OpenAI, reference: Reference
) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="support", messages=[{"role": "user", "content": TICKET}], max_tokens=1
    )
    usage = raw.parse().usage
    assert usage.prompt_tokens == 20 + len(reference.chat_ids(TICKET))
    # In production a version's keys and values are kept: its tokens are loaded, and not computed.
    assert usage.prompt_tokens_details.cached_tokens == 20
    assert raw.headers["x-softprompt-virtual-tokens"] == "20"


def test_the_answer_names_its_version(
    client: openai.OpenAI, support: dict[str, dict[str, Any]]
) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="support", messages=[{"role": "user", "content": TICKET}], max_tokens=1
    )
    assert raw.parse().model == "support@v2"
    assert raw.headers["x-softprompt-name"] == "support"
    assert raw.headers["x-softprompt-version"] == "v2"
    assert raw.headers["x-softprompt-digest"] == support["v2"]["digest"]
    assert raw.headers["x-softprompt-reason"] == "production"


def test_models_lists_base_prompts_versions_and_aliases(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names[0] == BASE
    assert {
        "support",
        "support@v1",
        "support@v2",
        "support@v3",
        "support@production",
    } <= set(names)


def test_a_header_pins_a_version(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="support",
        messages=[{"role": "user", "content": TICKET}],
        max_tokens=1,
        extra_headers={"x-softprompt-version": "v3"},
    )
    assert raw.parse().model == "support@v3"
