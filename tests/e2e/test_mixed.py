"""The same answers in mixed batches, for any n, with prefix caching and across users' salts."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import openai
import pytest
import torch
from e2e.conftest import TICKET
from e2e.harness import BASE, Admin, Server
from e2e.reference import Reference, safetensors_bytes

TOKENS = 12
BLOCK = 128  # vLLM's KV block on CPU
SIZES = [1, 5, 16, 100, BLOCK - 1, BLOCK, BLOCK + 1, 200, 2 * BLOCK - 1, 2 * BLOCK]

TICKETS = [
    TICKET,
    "I can't log in since I changed my phone number.",
    "Please cancel order 5512, I ordered the wrong size.",
    "The app crashes when I open the settings page on my tablet.",
    "Do you ship to Norway, and what would it cost?",
    "My invoice from March shows VAT twice.",
]


async def ask(client: openai.AsyncOpenAI, model: str, text: str, **more: Any) -> tuple[str, Any]:
    raw = await client.chat.completions.with_raw_response.create(
        model=model,
        messages=[{"role": "user", "content": text}],
        temperature=0,
        max_tokens=TOKENS,
        **more,
    )
    return raw.parse().choices[0].message.content, raw


def cached(raw: Any) -> int:
    return raw.parse().usage.prompt_tokens_details.cached_tokens


@pytest.fixture(scope="module")
def expected(
    reference: Reference, rows: dict[str, torch.Tensor], hard_text: str
) -> dict[tuple[str, str], str]:
    """Transformers' answer for each model and ticket."""

    def hard(text: str) -> list[int]:
        messages = [{"role": "system", "content": hard_text}, {"role": "user", "content": text}]
        return reference.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True
        )["input_ids"]

    answers = {}
    for text in TICKETS:
        visible = reference.chat_ids(text)
        answers[BASE, text] = reference.answer(visible, tokens=TOKENS)
        answers["support@v1", text] = reference.answer(hard(text), tokens=TOKENS)
        for version, tensor in rows.items():
            answers[f"support@{version}", text] = reference.answer(visible, tensor, tokens=TOKENS)
    return answers


def test_sixteen_at_once_of_every_kind_get_each_their_own(
    server: Server, support: dict[str, Any], expected: dict[tuple[str, str], str]
) -> None:
    models = [BASE, "support@v1", "support@v2", "support@v3"]
    jobs = [*itertools.product(models, TICKETS)] * 3

    async def run() -> list[tuple[str, Any]]:
        gate = asyncio.Semaphore(16)

        async def one(model: str, text: str) -> tuple[str, Any]:
            async with gate, server.async_client() as client:
                return await ask(client, model, text)

        # Neighbours in the queue differ in model, so that every batch is mixed.
        order = sorted(range(len(jobs)), key=lambda i: (i * 7) % len(jobs))
        answers = await asyncio.gather(*(one(*jobs[i]) for i in order))
        return [
            answer for _, answer in sorted(zip(order, answers, strict=True), key=lambda p: p[0])
        ]

    for (model, text), (answer, raw) in zip(jobs, asyncio.run(run()), strict=True):
        assert answer == expected[model, text]
        assert raw.parse().model == model


def test_any_number_of_virtual_tokens(server: Server, admin: Admin, reference: Reference) -> None:
    client = server.client()
    visible = reference.chat_ids(TICKET)
    for n in SIZES:
        tensor = reference.random_rows(n, seed=n)
        admin.imported("sizes", safetensors_bytes(tensor), version=f"n{n}")
        wanted = reference.answer(visible, tensor, tokens=TOKENS)
        for _ in range(2):  # the second time from the prefix cache, where n fills blocks
            answer = client.chat.completions.create(
                model=f"sizes@n{n}",
                messages=[{"role": "user", "content": TICKET}],
                temperature=0,
                max_tokens=TOKENS,
            )
            assert answer.choices[0].message.content == wanted, n
            assert answer.usage.prompt_tokens == n + len(visible)
        assert answer.usage.prompt_tokens_details.cached_tokens == (
            (n + len(visible) - 1) // BLOCK * BLOCK
        )
        removed = admin.http.delete(f"/prompts/sizes/versions/n{n}")
        assert removed.status_code == 200, removed.text


def test_alternating_versions_reuse_their_own_blocks_and_never_each_others(
    server: Server, admin: Admin, reference: Reference
) -> None:
    visible = reference.chat_ids(TICKET)
    tensors = reference.distinct_rows(150, visible, ("a", "b"), tokens=TOKENS)
    for name, tensor in tensors.items():
        admin.imported("caching", safetensors_bytes(tensor), version=name)
    wanted = {n: reference.answer(visible, t, tokens=TOKENS) for n, t in tensors.items()}

    async def run() -> None:
        async with server.async_client() as client:
            for turn, name in enumerate("abababba"):
                answer, raw = await ask(client, f"caching@{name}", TICKET)
                assert answer == wanted[name]
                assert cached(raw) == (0 if turn < 2 else BLOCK)

    asyncio.run(run())


def test_a_users_own_salt_still_keeps_users_apart(
    server: Server, admin: Admin, reference: Reference
) -> None:
    tensor = reference.random_rows(150, seed=3)
    admin.imported("salted", safetensors_bytes(tensor), version="v1")
    wanted = reference.answer(reference.chat_ids(TICKET), tensor, tokens=TOKENS)

    async def run() -> None:
        async with server.async_client() as client:
            for salt, blocks in (("x", 0), ("x", 1), ("y", 0), (None, 0), ("y", 1), (None, 1)):
                more = {} if salt is None else {"extra_body": {"cache_salt": salt}}
                answer, raw = await ask(client, "salted@v1", TICKET, **more)
                assert answer == wanted
                assert cached(raw) == blocks * BLOCK, salt

    asyncio.run(run())


def test_new_content_under_a_new_version_answers_as_itself(
    server: Server, admin: Admin, reference: Reference
) -> None:
    client = server.client()
    for number, seed in enumerate((11, 12), start=1):
        tensor = reference.random_rows(20, seed=seed)
        created = admin.imported("again", safetensors_bytes(tensor))
        assert created["version"] == f"v{number}"
        answer = client.chat.completions.create(
            model=f"again@v{number}",
            messages=[{"role": "user", "content": TICKET}],
            temperature=0,
            max_tokens=TOKENS,
        )
        wanted = reference.answer(reference.chat_ids(TICKET), tensor, tokens=TOKENS)
        assert answer.choices[0].message.content == wanted
