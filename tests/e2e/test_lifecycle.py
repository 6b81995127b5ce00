"""Swap, load, unload, evict and remove while requests run: nothing fails, nothing is mixed up."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from e2e.conftest import TICKET
from e2e.harness import Admin, Server
from e2e.reference import Reference, safetensors_bytes

SWAPS = 500
CLIENTS = 8
TOKENS = 6


@dataclass
class Load:
    """Steady traffic from several openai clients, and what came back."""

    server: Server
    model: str
    answers: list[tuple[str, str, str]] = field(default_factory=list)  # (version, digest, text)
    errors: list[BaseException] = field(default_factory=list)
    finished: threading.Event = field(default_factory=threading.Event)

    async def _client(self) -> None:
        async with self.server.async_client() as client:
            while not self.finished.is_set():
                raw = await client.chat.completions.with_raw_response.create(
                    model=self.model,
                    messages=[{"role": "user", "content": TICKET}],
                    temperature=0,
                    max_tokens=TOKENS,
                )
                answer = raw.parse()
                version = raw.headers["x-softprompt-version"]
                assert answer.model == f"{raw.headers['x-softprompt-name']}@{version}"
                text = answer.choices[0].message.content
                self.answers.append((version, raw.headers["x-softprompt-digest"], text))

    def _run(self) -> None:
        async def all_clients() -> None:
            await asyncio.gather(*(self._client() for _ in range(CLIENTS)))

        try:
            asyncio.run(all_clients())
        except BaseException as error:  # noqa: BLE001 - handed to the test's thread
            self.errors.append(error)

    @contextmanager
    def running(self) -> Iterator[Load]:
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            self.wait_for(CLIENTS)
            yield self
            self.wait_for(len(self.answers) + CLIENTS)
        finally:
            self.finished.set()
            thread.join(300)
        assert not self.errors, self.errors

    def wait_for(self, answers: int) -> None:
        deadline = time.monotonic() + 120
        while len(self.answers) < answers and not self.errors:
            assert time.monotonic() < deadline, "traffic stands still"
            time.sleep(0.01)


def expected_texts(reference: Reference, tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    visible = reference.chat_ids(TICKET)
    return {name: reference.answer(visible, t, tokens=TOKENS) for name, t in tensors.items()}


def test_five_hundred_swaps_under_load_lose_and_mix_up_nothing(
    server: Server, admin: Admin, reference: Reference
) -> None:
    visible = reference.chat_ids(TICKET)
    tensors = reference.distinct_rows(20, visible, ("left", "right"), tokens=TOKENS)
    texts = expected_texts(reference, tensors)
    digests = {
        name: admin.imported("swap", safetensors_bytes(tensor), version=name)["digest"]
        for name, tensor in tensors.items()
    }
    admin.alias("swap", "production", "left")
    slowest = 0.0
    with Load(server, "swap").running() as load:
        for turn in range(SWAPS):
            begun = time.monotonic()
            admin.alias("swap", "production", "right" if turn % 2 == 0 else "left")
            slowest = max(slowest, time.monotonic() - begun)
    for version, digest, text in load.answers:
        assert digest == digests[version]
        assert text == texts[version]
    assert {version for version, _, _ in load.answers} == {"left", "right"}
    assert slowest < 30  # a bound against hanging; benchmarks measure how long it takes


def test_a_request_sent_after_a_swap_gets_the_new_version(
    server: Server, admin: Admin, reference: Reference
) -> None:
    for name, seed in (("old", 23), ("new", 24)):
        tensor = reference.random_rows(20, seed=seed)
        admin.imported("order", safetensors_bytes(tensor), version=name)
    client = server.client()
    for turn in range(20):
        target = "new" if turn % 2 else "old"
        admin.alias("order", "production", target)
        answer = client.completions.create(model="order", prompt="Hello", max_tokens=1)
        assert answer.model == f"order@{target}"


def test_uploads_loads_and_removals_under_load_disturb_nobody(
    server: Server, admin: Admin, reference: Reference
) -> None:
    tensor = reference.random_rows(33, seed=31)
    admin.imported("steady", safetensors_bytes(tensor), version="v1")
    admin.alias("steady", "production", "v1")
    wanted = expected_texts(reference, {"v1": tensor})["v1"]
    client = server.client()
    with Load(server, "steady").running() as load:
        for turn in range(6):
            passing = reference.random_rows(40, seed=100 + turn)
            name = f"p{turn}"
            admin.imported("steady", safetensors_bytes(passing), version=name)
            answer = client.completions.create(model=f"steady@{name}", prompt="Hello", max_tokens=1)
            assert answer.model == f"steady@{name}"
            unloaded = admin.http.put(
                f"/prompts/steady/versions/{name}/residency", json={"resident": False}
            )
            assert unloaded.json()["state"] == "unloaded"
            removed = admin.http.delete(f"/prompts/steady/versions/{name}")
            assert removed.status_code == 200, removed.text
    assert {text for _, _, text in load.answers} == {wanted}


def test_a_removal_waits_for_the_answer_that_has_begun(
    server: Server, admin: Admin, reference: Reference
) -> None:
    tensor = reference.random_rows(20, seed=41)
    admin.imported("draining", safetensors_bytes(tensor), version="v1")
    wanted = reference.answer(reference.text_ids("Once upon a time"), tensor, tokens=60)
    stream = server.client().completions.create(
        model="draining@v1",
        prompt="Once upon a time",
        temperature=0,
        max_tokens=60,
        stream=True,
        extra_body={"ignore_eos": False},
    )
    chunks = iter(stream)
    text = next(chunks).choices[0].text
    results: list[Any] = []
    removal = threading.Thread(
        target=lambda: results.append(admin.http.delete("/prompts/draining/versions/v1"))
    )
    removal.start()
    text += "".join(chunk.choices[0].text for chunk in chunks)
    removal.join(60)
    assert text == wanted
    assert results[0].status_code == 200
    gone = admin.root.post(
        "/v1/completions", json={"model": "draining@v1", "prompt": "x", "max_tokens": 1}
    )
    assert gone.status_code == 404


def test_evicted_versions_come_back_from_the_host_and_answer_the_same(
    server: Server, admin: Admin, reference: Reference
) -> None:
    names = tuple(f"e{i}" for i in range(6))
    visible = reference.chat_ids(TICKET)
    tensors = reference.distinct_rows(250, visible, names, tokens=TOKENS)
    digests = {
        name: admin.imported("evict", safetensors_bytes(tensor), version=name)["digest"]
        for name, tensor in tensors.items()
    }
    # 1,500 rows went into a bank of 1,024: the first ones have left it.
    (worker,) = admin.workers()
    assert digests["e0"] not in worker["resident"]
    assert digests["e0"] in worker["host"]
    assert worker["used_rows"] <= worker["capacity_rows"] == 1024
    assert admin.version("evict", "e0")["state"] == "stored"
    texts = expected_texts(reference, tensors)
    client = server.client()
    for name in [*tensors, "e0", "e5", "e1"]:
        answer = client.chat.completions.create(
            model=f"evict@{name}",
            messages=[{"role": "user", "content": TICKET}],
            temperature=0,
            max_tokens=TOKENS,
        )
        assert answer.choices[0].message.content == texts[name]
    for name in tensors:
        assert admin.http.delete(f"/prompts/evict/versions/{name}").status_code == 200
