"""Two engines, three API servers, one PostgreSQL, one S3: changes arrive everywhere, or nowhere.

The model is tiny and random: what is proven here is who answers, not what a real one would say.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from e2e.harness import START_SECONDS, Admin, Server
from e2e.reference import safetensors_bytes
from postgres import Postgres
from s3 import S3

HIDDEN = 64
ROWS = 4
TTL = 3.0
TOKEN = "one-token-for-all-replicas"
NAMES = ("v1", "v2")
ASK = {"prompt": "The weather today is", "max_tokens": 6, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def tiny(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with random weights and the demo model's tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415 - seconds to import

    folder = tmp_path_factory.mktemp("tiny")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (model / name).exists():
            shutil.copy(model / name, folder / name)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=json.loads((model / "config.json").read_text())["vocab_size"],
        hidden_size=HIDDEN,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@dataclass
class Fleet:
    """The replicas, and what they stand on."""

    one: Server
    two: Server
    admins: dict[str, Admin] = field(default_factory=dict)

    def both(self) -> list[Admin]:
        return [self.admins["one"], self.admins["two"]]

    def wait(self, what: Callable[[], bool], why: str, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, why
            time.sleep(0.02)

    def rollout(self) -> dict[str, Any]:
        answer = self.admins["one"].http.get("/prompts/shared/rollout")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def names(self) -> list[str]:
        """The live replicas, by name."""
        return sorted(replica["name"] for replica in self.rollout()["observed"])

    def weights(self, admin: Admin, **weights: int) -> dict[str, Any]:
        answer = admin.http.put("/prompts/shared/rollout/weights", json=weights)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def applied(self, seconds: float = 60.0) -> float:
        """Seconds until every live replica serves the present generation."""
        began = time.monotonic()
        self.wait(lambda: self.rollout()["applied"], f"not applied: {self.rollout()}", seconds)
        return time.monotonic() - began


@pytest.fixture(scope="module")
def objects() -> Iterator[S3]:
    server = S3()
    server.create("prompts")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def fleet(
    tiny: Path, tmp_path_factory: pytest.TempPathFactory, postgres: Postgres, objects: S3
) -> Iterator[Fleet]:
    environment = {
        "SOFTPROMPT_ADMIN_TOKEN": TOKEN,
        "SOFTPROMPT_DATABASE_URL": postgres.create(),
        "SOFTPROMPT_BLOB_URL": "s3://prompts/softprompts",
        "SOFTPROMPT_REPLICA_TTL_SECONDS": str(TTL),
        "SOFTPROMPT_BANK_ROWS": str(3 * ROWS),  # three versions, so that a fourth is loaded
        "SOFTPROMPT_HOST_TIER_BYTES": "0",
        **objects.environment(),
    }
    flags = ("--max-model-len", "256", "--max-num-seqs", "8", "--enforce-eager")

    def server(name: str, *more: str) -> Server:
        return Server(
            tiny,
            tmp_path_factory.mktemp(name),
            flags=(*flags, *more, "--kv-cache-memory-bytes", str(2**27)),
            environment={**environment, "SOFTPROMPT_REPLICA_NAME": name},
        )

    fleet = Fleet(server("one"), server("two", "--api-server-count", "2"))
    try:
        fleet.one.launch()
        fleet.two.launch()
        fleet.one.wait_ready()
        fleet.two.wait_ready()
        fleet.admins = {"one": fleet.one.admin(TOKEN), "two": fleet.two.admin(TOKEN)}
        generator = torch.Generator().manual_seed(1)
        for name in NAMES:
            rows = torch.randn(ROWS, HIDDEN, generator=generator)
            fleet.admins["one"].imported("shared", safetensors_bytes(rows), version=name)
        fleet.admins["one"].alias("shared", "production", "v1")
        fleet.wait(lambda: fleet.names() == ["one", "two", "two"], "not all report", START_SECONDS)
        yield fleet
    finally:
        fleet.one.stop()
        fleet.two.stop()


def ask(admin: Admin, model: str = "shared") -> httpx.Response:
    return admin.root.post("/v1/completions", json={"model": model, **ASK})


@pytest.fixture(scope="module")
def expected(fleet: Fleet) -> dict[str, str]:
    """Each version's own answer, the same on both engines."""
    found: dict[str, str] = {}
    for admin in fleet.both():
        for name in NAMES:
            fleet.wait(lambda a=admin, n=name: ask(a, f"shared@{n}").status_code == 200, "unknown")
            text = ask(admin, f"shared@{name}").json()["choices"][0]["text"]
            assert found.setdefault(name, text) == text
    assert len(set(found.values())) == len(NAMES)
    return found


@dataclass
class Traffic:
    """Steady requests to every replica, and what came back: version, generation, text."""

    fleet: Fleet
    answers: list[tuple[float, str, int, str]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @contextmanager
    def running(self, *replicas: str) -> Iterator[Traffic]:
        finished = threading.Event()

        async def client(url: str) -> None:
            limits = httpx.Limits(max_keepalive_connections=0)  # so that both servers take part
            async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as http:
                while not finished.is_set():
                    await asyncio.sleep(0.02)  # the replicas share a machine that may be small
                    began = time.monotonic()
                    answer = await http.post("/v1/completions", json={"model": "shared", **ASK})
                    if answer.status_code != 200:
                        self.errors.append(answer.text)
                        continue
                    headers = answer.headers
                    generation = int(headers["x-softprompt-generation"])
                    text = answer.json()["choices"][0]["text"]
                    version = headers["x-softprompt-version"]
                    self.answers.append((began, version, generation, text))

        async def clients() -> None:
            urls = [getattr(self.fleet, name).url for name in replicas]
            await asyncio.gather(*(client(url) for url in urls for _ in range(2)))

        thread = threading.Thread(target=lambda: asyncio.run(clients()))
        thread.start()
        try:
            self.fleet.wait(lambda: len(self.answers) > 4, "traffic stands still")
            yield self
            count = len(self.answers)
            self.fleet.wait(lambda: len(self.answers) > count + 4, "traffic stands still")
        finally:
            finished.set()
            thread.join(120)


def test_changes_under_load_reach_every_replica_and_no_request_sees_a_wrong_arm(
    fleet: Fleet, expected: dict[str, str], record_testsuite_property: Any
) -> None:
    meant: dict[int, str] = {}
    idle, waits = [], []
    settled: list[tuple[float, str, int]] = []
    fleet.weights(fleet.admins["one"], v1=100)
    fleet.applied()
    meant[fleet.rollout()["generation"]] = "v1"
    for turn in range(6):
        version, admin = NAMES[(turn + 1) % 2], fleet.both()[turn % 2]
        meant[fleet.weights(admin, **{version: 100})["generation"]] = version
        idle.append(fleet.applied())
    with Traffic(fleet).running("one", "two") as traffic:
        for turn in range(12):
            version, admin = NAMES[(turn + 1) % 2], fleet.both()[turn % 2]
            generation = fleet.weights(admin, **{version: 100})["generation"]
            meant[generation] = version
            waits.append(fleet.applied())
            settled.append((time.monotonic(), version, generation))
            count = len(traffic.answers)
            fleet.wait(lambda c=count: len(traffic.answers) > c + 6, "traffic stands still")
    assert traffic.errors == []
    for began, version, generation, text in traffic.answers:
        assert meant[generation] == version
        assert text == expected[version]
        # Once a change is applied everywhere, no later request is answered by an older one.
        assert generation >= max((g for at, _, g in settled if at < began), default=0)
    record_testsuite_property("put_to_applied_seconds_idle", sorted(idle))
    record_testsuite_property("put_to_applied_seconds_under_load", sorted(waits))


def test_of_two_writers_with_one_generation_one_wins(fleet: Fleet) -> None:
    fleet.applied()
    generation = fleet.rollout()["generation"]

    def write(admin: Admin, version: str) -> int:
        return admin.http.put(
            "/prompts/shared/rollout/weights",
            json={version: 7},
            headers={"if-match": str(generation)},
        ).status_code

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(write, fleet.both(), NAMES))
    assert sorted(found) == [200, 412]
    fleet.applied()


def test_without_the_database_serving_goes_on_and_changes_are_refused(
    fleet: Fleet, expected: dict[str, str], postgres: Postgres
) -> None:
    fleet.weights(fleet.admins["one"], v1=100)
    fleet.applied()
    before = fleet.rollout()["generation"]
    postgres.kill()
    try:
        for admin in fleet.both():
            refused = admin.http.put("/prompts/shared/rollout/weights", json={"v2": 100})
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "catalogue_unavailable"
            answer = ask(admin)
            assert answer.headers["x-softprompt-version"] == "v1"
            assert answer.json()["choices"][0]["text"] == expected["v1"]
    finally:
        postgres.start()
    fleet.wait(
        lambda: all(
            a.http.get("/prompts/shared/rollout").json().get("observed") for a in fleet.both()
        ),
        "the replicas do not come back to the database",
    )
    assert fleet.rollout()["generation"] == before
    fleet.weights(fleet.admins["two"], v2=100)
    fleet.applied()
    assert all(ask(admin).headers["x-softprompt-version"] == "v2" for admin in fleet.both())


def test_without_the_blob_store_only_what_is_not_resident_is_refused(
    fleet: Fleet, expected: dict[str, str], objects: S3
) -> None:
    admin = fleet.admins["one"]
    generator = torch.Generator().manual_seed(2)
    extra = [torch.randn(ROWS, HIDDEN, generator=generator) for _ in range(2)]
    for number, rows in enumerate(extra):  # the second needs the first one's place in the bank
        admin.imported("spare", safetensors_bytes(rows), version=f"s{number}")
    with objects.lost():
        gone = ask(admin, "spare@s0")
        assert gone.status_code == 503
        assert gone.json()["error"]["code"] == "blob_store_unavailable"
        assert ask(admin, "shared@v1").json()["choices"][0]["text"] == expected["v1"]
        refused = admin.upload("spare", safetensors_bytes(extra[0] + 1.0))
        assert refused.status_code == 503
    assert ask(admin, "spare@s0").status_code == 200
    for number in range(2):
        assert admin.http.delete(f"/prompts/spare/versions/s{number}").status_code == 200


def test_a_killed_replica_is_missed_and_its_successor_catches_up(
    fleet: Fleet, expected: dict[str, str]
) -> None:
    fleet.weights(fleet.admins["one"], v1=100)
    fleet.applied()
    with Traffic(fleet).running("one") as traffic:
        assert fleet.two.process is not None
        os.killpg(fleet.two.process.pid, signal.SIGKILL)
        fleet.weights(fleet.admins["one"], v2=100)
        waiting = {r["name"] for r in fleet.rollout()["observed"] if not r["applied"]}
        assert waiting <= {"one", "two"}
        fleet.applied(TTL + 30)
        assert fleet.names() == ["one"]
    assert traffic.errors == []
    fleet.two.stop(signal.SIGKILL)
    fleet.two.start()
    fleet.admins["two"] = fleet.two.admin(TOKEN)
    fleet.wait(
        lambda: fleet.names() == ["one", "two", "two"],
        "the successor's two servers do not report",
        START_SECONDS,
    )
    fleet.applied()
    answer = ask(fleet.admins["two"])
    assert answer.headers["x-softprompt-version"] == "v2"
    assert answer.json()["choices"][0]["text"] == expected["v2"]


def test_a_replica_that_is_told_to_end_leaves_at_once(fleet: Fleet) -> None:
    # With several API servers vLLM kills them at once, unless it was given --shutdown-timeout.
    fleet.one.stop()
    seen = fleet.admins["two"].http.get("/prompts/shared/rollout").json()
    assert [replica["name"] for replica in seen["observed"]] == ["two", "two"]
