"""Whatever goes wrong: an error that says so, never an answer without its prompt."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from e2e.conftest import TICKET
from e2e.harness import BASE, Admin, Server
from e2e.reference import Reference, safetensors_bytes

TOKENS = 6
MESSAGES = [{"role": "user", "content": TICKET}]


@pytest.fixture(scope="module")
def client(server: Server, support: dict[str, Any]) -> openai.OpenAI:
    return server.client()


def refused(client: openai.OpenAI, model: str, **more: Any) -> tuple[int, str]:
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=4, **more)
    return caught.value.status_code, caught.value.code


def answer(client: openai.OpenAI, model: str) -> str:
    found = client.chat.completions.create(
        model=model, messages=MESSAGES, temperature=0, max_tokens=TOKENS
    )
    return found.choices[0].message.content


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        ({"cache_salt": "sp:0123456789abcdef"}, "reserved_cache_salt"),
        ({"vllm_xargs": {"softprompt": "v2"}}, "reserved_vllm_xargs"),
        ({"use_beam_search": True}, "softprompt_unsupported_field"),
        ({"echo": True}, "softprompt_unsupported_field"),
        ({"prompt_logprobs": 1}, "softprompt_unsupported_field"),
        ({"return_token_ids": True}, "softprompt_unsupported_field"),
        ({"truncate_prompt_tokens": 5}, "softprompt_unsupported_field"),
        ({"kv_transfer_params": {"prompt_token_ids": [1]}}, "softprompt_unsupported_field"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)
def test_what_cant_carry_a_soft_prompt_is_refused(
    client: openai.OpenAI, extra: dict[str, Any], code: str
) -> None:
    assert refused(client, "support", extra_body=extra) == (400, code)


@pytest.mark.parametrize("extra", [{"cache_salt": "sp:1"}, {"vllm_xargs": {"softprompt": "x"}}])
def test_nor_may_a_base_request_forge_ours(client: openai.OpenAI, extra: dict[str, Any]) -> None:
    status, code = refused(client, BASE, extra_body=extra)
    assert status == 400
    assert code.startswith("reserved_")


@pytest.mark.parametrize("name", ["support@v9", "support@", "support@v2@v3"])
def test_unknown_versions_are_404(client: openai.OpenAI, name: str) -> None:
    assert refused(client, name) == (404, "version_not_found")


def test_unknown_names_are_vllms_own_404(client: openai.OpenAI) -> None:
    assert refused(client, "nobody")[0] == 404


def test_a_prompt_without_production_must_be_asked_for_by_version(
    client: openai.OpenAI, admin: Admin, reference: Reference
) -> None:
    admin.imported("fresh", safetensors_bytes(reference.random_rows(4, seed=1)))
    assert refused(client, "fresh") == (404, "no_production_version")


def test_virtual_tokens_count_towards_the_context_length(
    client: openai.OpenAI, reference: Reference
) -> None:
    long = " word" * (2048 - 30)
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="support", prompt=long, max_tokens=16)
    assert caught.value.code == "context_length_exceeded"
    assert "20 virtual" in str(caught.value)


@pytest.mark.parametrize(
    "path", ["/generative_scoring", "/v1/chat/completions/batch", "/v1/messages/count_tokens"]
)
def test_routes_that_cant_carry_a_prompt_refuse_its_name(admin: Admin, path: str) -> None:
    body = {
        "model": "support",
        "messages": [MESSAGES] if path.endswith("batch") else MESSAGES,
        "query": "x",
        "items": ["y"],
        "label_token_ids": [3, 4],
    }
    if path == "/generative_scoring":
        del body["messages"]
    if path.startswith("/v1"):
        body = {key: body[key] for key in ("model", "messages")}
    answer = admin.root.post(path, json=body)
    assert answer.status_code in {400, 404}, answer.text
    assert "choices" not in answer.text


def test_tokenize_shows_the_visible_tokens(admin: Admin, reference: Reference) -> None:
    answer = admin.root.post("/tokenize", json={"model": "support", "prompt": TICKET})
    assert answer.json()["tokens"] == reference.text_ids(TICKET)


def test_an_unloaded_version_is_503_until_it_is_loaded_again(
    client: openai.OpenAI, admin: Admin, reference: Reference
) -> None:
    rows = reference.random_rows(20, seed=61)
    admin.imported("parked", safetensors_bytes(rows), version="v1")
    path = "/prompts/parked/versions/v1/residency"
    assert admin.http.put(path, json={"resident": False}).status_code == 200
    assert refused(client, "parked@v1") == (503, "version_unloaded")
    assert admin.http.put(path, json={"resident": True}).json()["state"] == "resident"
    wanted = reference.answer(reference.chat_ids(TICKET), rows, tokens=TOKENS)
    assert answer(client, "parked@v1") == wanted


def test_a_worker_that_lost_its_slot_never_answers_unprompted(
    client: openai.OpenAI, admin: Admin, reference: Reference
) -> None:
    rows = reference.random_rows(150, seed=62)
    digest = admin.imported("lost", safetensors_bytes(rows), version="v1")["digest"]
    wanted = reference.answer(reference.chat_ids(TICKET), rows, tokens=TOKENS)
    assert answer(client, "lost@v1") == wanted
    for forget in (False, True):  # the host tier still has it; then only the blob store does
        admin.worker_call("softprompt_unload", digest, forget)
        assert answer(client, "lost@v1") == wanted  # noticed, loaded again, answered in full


def test_a_version_that_is_lost_everywhere_is_an_error(
    client: openai.OpenAI, server: Server, admin: Admin, reference: Reference
) -> None:
    rows = reference.random_rows(20, seed=63)
    digest = admin.imported("gone", safetensors_bytes(rows), version="v1")["digest"]
    (blob,) = (server.home / "blobs").rglob(digest)
    content = blob.read_bytes()
    blob.unlink()
    admin.worker_call("softprompt_unload", digest, True)
    assert refused(client, "gone@v1") == (503, "softprompt_lost")
    damaged = bytearray(content)
    damaged[-1] ^= 1
    blob.write_bytes(damaged)
    assert refused(client, "gone@v1")[0] == 503
    blob.write_bytes(content)
    wanted = reference.answer(reference.chat_ids(TICKET), rows, tokens=TOKENS)
    assert answer(client, "gone@v1") == wanted


@pytest.mark.parametrize("route", ["chat", "completions", "responses"])
def test_a_stream_whose_version_is_lost_everywhere_ends_in_our_error(
    client: openai.OpenAI, server: Server, admin: Admin, reference: Reference, route: str
) -> None:
    ask: dict[str, Callable[[], Iterable[Any]]] = {
        "chat": lambda: client.chat.completions.create(
            model="gone@v1", messages=MESSAGES, max_tokens=4, stream=True
        ),
        "completions": lambda: client.completions.create(
            model="gone@v1", prompt=TICKET, max_tokens=4, stream=True
        ),
        "responses": lambda: client.responses.create(
            model="gone@v1", input=TICKET, max_output_tokens=16, stream=True
        ),
    }
    rows = reference.random_rows(20, seed=63)
    digest = admin.imported("gone", safetensors_bytes(rows), version="v1")["digest"]
    assert list(ask[route]())  # resident, as the server knows
    (blob,) = (server.home / "blobs").rglob(digest)
    content = blob.read_bytes()
    blob.unlink()
    admin.worker_call("softprompt_unload", digest, True)
    with pytest.raises(openai.APIError) as told:
        list(ask[route]())
    assert (told.value.code, told.value.type) == ("softprompt_lost", "server_error")
    blob.write_bytes(content)
    assert list(ask[route]())


def test_without_the_blobs_directory_what_is_resident_answers_and_nothing_else_does(
    client: openai.OpenAI, server: Server, admin: Admin, reference: Reference
) -> None:
    rows = reference.random_rows(20, seed=64)
    digest = admin.imported("away", safetensors_bytes(rows), version="v1")["digest"]
    before = answer(client, "support")
    blobs = server.home / "blobs"
    hidden = blobs.rename(server.home / "blobs.hidden")
    try:
        admin.worker_call("softprompt_unload", digest, True)
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(refused, client, "away@v1") for _ in range(4)]
            resident = [pool.submit(answer, client, "support") for _ in range(4)]
            told = {one.result() for one in asked}
            assert {one.result() for one in resident} == {before}
        assert {status for status, _ in told} == {503}
        assert {code for _, code in told} <= {"softprompt_lost", "blob_missing"}
    finally:
        hidden.rename(blobs)
    wanted = reference.answer(reference.chat_ids(TICKET), rows, tokens=TOKENS)
    assert answer(client, "away@v1") == wanted


def test_the_engine_survives_all_of_that(client: openai.OpenAI, admin: Admin) -> None:
    assert admin.root.get("/softprompts/v1/readyz").status_code == 200
    assert answer(client, "support")


def test_a_dead_catalogue_stops_changes_but_not_answers(
    client: openai.OpenAI, server: Server, admin: Admin, reference: Reference
) -> None:
    before = answer(client, "support")
    database = server.home / "catalogue.db"
    lock = sqlite3.connect(database)
    hidden = database.with_suffix(".hidden")
    lock.close()
    database.rename(hidden)
    try:
        changed = admin.http.put("/prompts/support/aliases/production", json={"version": "v3"})
        assert changed.status_code == 503, changed.text
        assert changed.json()["error"]["code"] == "catalogue_unavailable"
        added = admin.upload("support", safetensors_bytes(reference.random_rows(3, seed=2)))
        assert added.status_code == 503
        assert answer(client, "support") == before
        ready = admin.root.get("/softprompts/v1/readyz")
        assert ready.status_code == 200
        assert ready.json()["checks"]["catalogue"] != "ok"
    finally:
        hidden.rename(database)
    assert admin.alias("support", "production", "v2")["version"] == "v2"


def test_admin_calls_need_the_token(admin: Admin) -> None:
    path = "/softprompts/v1/prompts"
    assert admin.root.get(path).json()["error"]["code"] == "missing_admin_token"
    wrong = admin.root.get(path, headers={"authorization": "Bearer wrong"})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "invalid_admin_token")
