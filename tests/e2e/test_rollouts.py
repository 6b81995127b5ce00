"""Traffic is split by version on a real engine: who gets what, and that it is that version's."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from typing import Any

import httpx
import pytest
import safetensors.torch
import torch
from e2e.conftest import TICKET
from e2e.harness import Admin, Server
from e2e.reference import Reference, safetensors_bytes
from e2e.test_lifecycle import Load

from softprompt_serve.router.split import Split

TOKENS = 8
NAMES = ("v1", "v2", "v3")
CHAT = "/v1/chat/completions"


def chat(admin: Admin, prompt: str, *, text: str = TICKET, **more: Any) -> httpx.Response:
    headers = more.pop("headers", {})
    body = {
        "model": prompt,
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": TOKENS,
        **more,
    }
    answer = admin.root.post(CHAT, json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


def said(answer: httpx.Response) -> str:
    return answer.json()["choices"][0]["message"]["content"]


@pytest.fixture(scope="module")
def tensors(reference: Reference) -> dict[str, torch.Tensor]:
    return reference.distinct_rows(6, reference.chat_ids(TICKET), NAMES, tokens=TOKENS)


@pytest.fixture(scope="module")
def expected(reference: Reference, tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    """Transformers' answer of each version to the ticket."""
    visible = reference.chat_ids(TICKET)
    return {name: reference.answer(visible, rows, tokens=TOKENS) for name, rows in tensors.items()}


@pytest.fixture(scope="module", autouse=True)
def routed(admin: Admin, tensors: dict[str, torch.Tensor]) -> None:
    """A prompt with three versions that answer differently; production on v1."""
    for name, rows in tensors.items():
        admin.imported("routed", safetensors_bytes(rows), version=name)
    admin.alias("routed", "production", "v1")


@pytest.fixture
def rollout(admin: Admin) -> Any:
    def put(**document: Any) -> dict[str, Any]:
        answer = admin.http.put("/prompts/routed/rollout", json=document)
        assert answer.status_code == 200, answer.text
        return answer.json()

    yield put
    admin.http.delete("/prompts/routed/rollout")


def arms(**weights: int) -> list[dict[str, Any]]:
    return [{"version": version, "weight": weight} for version, weight in weights.items()]


def test_a_key_stays_on_its_arm_and_is_answered_by_that_version(
    admin: Admin, rollout: Any, expected: dict[str, str]
) -> None:
    rollout(arms=arms(v1=50, v2=30, v3=20))
    split = Split.of("routed", [("v1", 50), ("v2", 30), ("v3", 20)])
    seen: Counter[str] = Counter()
    for user in (f"user-{number}" for number in range(30)):
        answer = chat(admin, "routed", user=user)
        version = answer.headers["x-softprompt-version"]
        assert version == split.pick(user)
        assert answer.headers["x-softprompt-reason"] == "split"
        assert answer.json()["model"] == f"routed@{version}"
        assert said(answer) == expected[version]
        seen[version] += 1
    assert set(seen) == set(NAMES)


def test_every_handler_finds_its_own_kind_of_sticky_key(
    admin: Admin, server: Server, rollout: Any
) -> None:
    rollout(arms=arms(v1=1, v2=1, v3=1))
    split = Split.of("routed", [(name, 1) for name in NAMES])
    keys = {name: next(k for k in map(str, range(99)) if split.pick(k) == name) for name in NAMES}
    client, messages = server.client(), server.messages_client()
    for version, key in keys.items():
        model = f"routed@{version}"
        header = {"x-softprompt-sticky-key": key}
        assert chat(admin, "routed", headers=header, user="someone").json()["model"] == model
        assert chat(admin, "routed", safety_identifier=key).json()["model"] == model
        completed = client.completions.create(model="routed", prompt="Once", user=key, max_tokens=1)
        assert completed.model == model
        responded = client.responses.create(
            model="routed", input="Hello", prompt_cache_key=key, max_output_tokens=1
        )
        assert responded.model == model
        answered = messages.messages.create(
            model="routed",
            messages=[{"role": "user", "content": "Hello"}],
            metadata={"user_id": key},
            max_tokens=1,
        )
        assert answered.model == model


def test_rules_come_before_the_split_and_pins_before_rules(admin: Admin, rollout: Any) -> None:
    rollout(
        arms=arms(v1=1),
        rules=[
            {"name": "regulated", "match": {"cohort": ["regulated"]}, "version": "v2"},
            {"name": "acme", "match": {"headers": {"x-tenant": ["acme"]}}, "version": "v3"},
        ],
    )
    regulated = {"x-softprompt-cohort": "regulated"}
    answer = chat(admin, "routed", headers=regulated | {"x-tenant": "acme"})
    assert answer.headers["x-softprompt-version"] == "v2"
    assert answer.headers["x-softprompt-reason"] == "rule"
    assert answer.headers["x-softprompt-cohort"] == "regulated"
    tenant = chat(admin, "routed", headers={"x-tenant": "acme"})
    assert tenant.headers["x-softprompt-version"] == "v3"
    pinned = chat(admin, "routed@v1", headers=regulated)
    assert pinned.headers["x-softprompt-version"] == "v1"
    assert pinned.headers["x-softprompt-reason"] == "pinned"
    assert chat(admin, "routed").headers["x-softprompt-version"] == "v1"


def test_a_rule_on_visible_tokens_counts_them_before_a_prompt_is_added(
    admin: Admin, rollout: Any, reference: Reference, expected: dict[str, str]
) -> None:
    visible = len(reference.chat_ids(TICKET))
    match = {"visible_tokens": {"min": visible, "max": visible}}
    rollout(arms=arms(v1=1), rules=[{"name": "exactly", "match": match, "version": "v2"}])
    exact = chat(admin, "routed")
    assert exact.headers["x-softprompt-version"] == "v2"
    assert said(exact) == expected["v2"]
    assert chat(admin, "routed", text=TICKET + " Help!").headers["x-softprompt-version"] == "v1"


def test_a_long_request_and_one_with_tools_are_cohorts_of_their_own(
    admin: Admin, rollout: Any
) -> None:
    rollout(
        arms=arms(v1=1),
        rules=[
            {"name": "long", "match": {"cohort": ["long_context"]}, "version": "v2"},
            {"name": "tools", "match": {"tools": True}, "version": "v3"},
        ],
    )
    long = chat(admin, "routed", text="again and " * 400)
    assert long.headers["x-softprompt-version"] == "v2"
    assert long.headers["x-softprompt-cohort"] == "long_context"
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    tooled = chat(admin, "routed", tools=[tool])
    assert tooled.headers["x-softprompt-version"] == "v3"
    assert tooled.headers["x-softprompt-cohort"] == "tool_calling"
    undeclared = chat(admin, "routed", headers={"x-softprompt-cohort": "nobody-declared-this"})
    assert undeclared.headers["x-softprompt-cohort"] == "other"


def test_clients_cannot_choose_their_place_in_the_queue(admin: Admin) -> None:
    body = {"model": "routed", "messages": [{"role": "user", "content": "Hi"}], "priority": -1}
    answer = admin.root.post(CHAT, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "client_priority_disabled"


def test_promotions_and_rollbacks_under_load_lose_and_mix_up_nothing(
    admin: Admin, server: Server, rollout: Any, expected: dict[str, str]
) -> None:
    rollout(arms=arms(v1=100))
    load = Load(server, "routed")
    with load.running():
        for _ in range(20):
            weights = admin.http.put("/prompts/routed/rollout/weights", json={"v1": 50, "v2": 50})
            assert weights.status_code == 200, weights.text
            assert admin.http.post("/prompts/routed/rollout/promote").status_code == 200
            assert admin.http.get("/prompts/routed").json()["aliases"]["production"] == "v2"
            back = admin.http.post("/prompts/routed/rollout/rollback")
            assert back.json()["production"] == "v1"
    versions = Counter(version for version, _, _ in load.answers)
    assert set(versions) <= {"v1", "v2"}
    for version, _, text in load.answers:
        assert text == expected[version][: len(text)] or expected[version].startswith(text)


def test_when_a_change_is_acknowledged_the_next_request_follows_it(
    admin: Admin, rollout: Any
) -> None:
    for version in ["v2", "v3", "v1"] * 5:
        generation = rollout(arms=arms(**{version: 100}))["generation"]
        answer = chat(admin, "routed", max_tokens=1)
        assert answer.headers["x-softprompt-version"] == version
        assert answer.headers["x-softprompt-generation"] == str(generation)


def drive(admin: Admin, state: str) -> dict[str, Any]:
    """Ask as ever new users until the rollout is in a state."""
    deadline = time.monotonic() + 120
    for number in itertools.count():
        found = admin.http.get("/prompts/routed/rollout").json()
        if found["state"] == state:
            return found
        assert time.monotonic() < deadline, found
        chat(admin, "routed", user=f"driver-{number}", max_tokens=1)
    raise AssertionError


def test_a_progression_moves_on_with_the_candidates_answers(admin: Admin, rollout: Any) -> None:
    step = {"min_requests": 4, "min_duration_seconds": 0}
    rollout(arms=arms(v1=100, v2=0), steps=[{"weight": 30, **step}, {"weight": 70, **step}])
    done = drive(admin, "promoted")
    assert (done["production"], done["weights"]["v2"]) == ("v2", 100)
    history = admin.http.get("/prompts/routed/rollout/history").json()["data"]
    walked = [entry["weights"]["v2"] for entry in history if entry["action"] == "advanced"][:2]
    assert walked == [70, 30]
    assert chat(admin, "routed", max_tokens=1).headers["x-softprompt-version"] == "v2"
    assert admin.http.post("/prompts/routed/rollout/rollback").json()["production"] == "v1"


def test_a_broken_gate_takes_the_candidate_back(admin: Admin, rollout: Any) -> None:
    rollout(
        arms=arms(v1=100, v2=0),
        steps=[{"weight": 50, "min_requests": 100_000}],
        gates=[{"metric": "e2e", "quantile": 0.5, "max": 0.0001}],
    )
    back = drive(admin, "rolled_back")
    assert (back["production"], back["weights"]) == ("v1", {"v1": 100})
    assert "e2e" in back["reason"]
    for user in range(20):
        answer = chat(admin, "routed", user=f"later-{user}", max_tokens=1)
        assert answer.headers["x-softprompt-version"] == "v1"


class Shadowed:
    """One shadow of `routed`, from nothing; waits for its pairs."""

    def __init__(self, admin: Admin, rollout: Any, **shadow: Any) -> None:
        self.admin = admin
        rollout(
            arms=arms(v1=100),
            shadow={"version": "v2", "sample": 1.0, "max_tokens_per_second": 10_000, **shadow},
        )

    def seen(self, what: str) -> dict[str, Any]:
        """What the API says once one of `what` has been counted."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            found = self.admin.http.get("/prompts/routed/shadow").json()
            if found["overall"][what] >= 1:
                return found
            time.sleep(0.1)
        raise AssertionError(found)


def test_a_shadow_answers_what_its_version_would_have_and_nobody_sees_it(
    admin: Admin, rollout: Any, expected: dict[str, str]
) -> None:
    shadowed = Shadowed(admin, rollout)
    answer = chat(admin, "routed")
    assert said(answer) == expected["v1"]
    found = shadowed.seen("pairs")
    (sample,) = found["samples"]
    assert sample["user"]["text"] == expected["v1"]
    assert sample["shadow"]["text"] == expected["v2"]


def test_a_score_is_the_likelihood_that_transformers_finds(
    admin: Admin,
    rollout: Any,
    reference: Reference,
    tensors: dict[str, torch.Tensor],
    expected: dict[str, str],
) -> None:
    shadowed = Shadowed(admin, rollout, mode="score")
    assert said(chat(admin, "routed")) == expected["v1"]
    divergence = shadowed.seen("scored")["overall"]["divergence"]["mean"]
    visible = reference.chat_ids(TICKET)
    told = reference.greedy(visible, tensors["v1"], tokens=TOKENS)

    wanted = reference.likelihood(visible, told, rows=tensors["v1"]) - reference.likelihood(
        visible, told, rows=tensors["v2"]
    )
    assert divergence == pytest.approx(wanted, abs=1e-3)


def test_a_prefix_scores_an_answer_as_transformers_does_after_its_keys_and_values(
    admin: Admin, rollout: Any, reference: Reference, tensors: dict[str, torch.Tensor]
) -> None:
    keys = reference.own_keys(reference.cycled("Speak of ships and the sea.", 11))
    admin.imported("routed", safetensors.torch.save({"keys": keys}), version="deep")
    shadowed = Shadowed(admin, rollout, mode="score", version="deep")
    chat(admin, "routed")
    divergence = shadowed.seen("scored")["overall"]["divergence"]["mean"]
    visible = reference.chat_ids(TICKET)
    told = reference.greedy(visible, tensors["v1"], tokens=TOKENS)
    by_rows = reference.likelihood(visible, told, rows=tensors["v1"])
    by_keys = reference.likelihood(visible, told, keys=keys)
    assert divergence == pytest.approx(by_rows - by_keys, abs=1e-3)


def test_streams_and_cancelled_requests_are_shadowed_without_harm(
    admin: Admin, server: Server, rollout: Any, expected: dict[str, str]
) -> None:
    shadowed = Shadowed(admin, rollout, mode="both")

    async def run() -> str:
        async with server.async_client() as client:
            ask: dict[str, Any] = {
                "model": "routed",
                "messages": [{"role": "user", "content": TICKET}],
                "temperature": 0,
                "stream": True,
            }
            left = await client.chat.completions.create(**ask, max_tokens=200)
            async for _ in left:
                break
            await left.close()
            stream = await client.chat.completions.create(**ask, max_tokens=TOKENS)
            return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

    assert asyncio.run(run()) == expected["v1"]
    found = shadowed.seen("scored")
    assert found["samples"][0]["shadow"]["text"] == expected["v2"]
