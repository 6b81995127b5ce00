"""A real server under mixed traffic, scraped by a real Prometheus that is asked all that we ask."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from e2e.conftest import TICKET
from e2e.harness import Admin, Server
from e2e.reference import safetensors_bytes
from e2e.test_metrics import eventually
from e2e.test_rollouts import chat
from observability.prometheus import Prometheus, running
from observability.queries import ask, rules
from runs import run_id, scored

from softprompt_serve.release.evidence_shapes import to_document

SECONDS = 600

RATES = "16s"
"""Of the dashboards: wide enough for scrapes that a busy machine answers late."""

NO_TARIFF = "the server has no prices"
NO_VERDICTS = "no evaluator has spoken"
NOBODY_WAITED = "every version that was asked for was resident"
NOTHING_LOST = "nothing went wrong"

MAY_BE_EMPTY = {
    "rollout / panel / Candidate against baseline: Cost per answer": NO_TARIFF,
    "rollout / panel / Candidate against baseline: Failed evaluations": NO_VERDICTS,
    "rollout / panel / Not as drawn: Fallbacks": NOBODY_WAITED,
    "rollout / panel / Shadow: Copies that came to nothing": NOTHING_LOST,
    "bank / panel / Loads and waiting: Requests that waited": NOBODY_WAITED,
    "bank / panel / Loads and waiting: Waiting time": NOBODY_WAITED,
    "bank / panel / The server: Counted as other": NOTHING_LOST,
    "bank / panel / The server: Telemetry that was lost": NOTHING_LOST,
    "bank / panel / Loads and waiting: Evictions": "the bank has room for all",
    "versions / panel / Tokens and cost: Cost per answer": NO_TARIFF,
    "versions / panel / Tokens and cost: Cost per answer p95": NO_TARIFF,
    "versions / panel / Tokens and cost: Cost per hour": NO_TARIFF,
    "versions / panel / What people and evaluators say: Failed evaluations": NO_VERDICTS,
    "versions / panel / What people and evaluators say: Failed evaluations by cohort": NO_VERDICTS,
    "versions / panel / Side by side: The whole time shown": "its cost and verdicts, as above",
    "versions / annotation / Pauses": "nobody paused",
    "rollout / annotation / Pauses": "nobody paused",
    "bank / annotation / Pauses": "nobody paused",
}


def arms(**weights: int) -> list[dict[str, Any]]:
    return [{"version": version, "weight": weight} for version, weight in weights.items()]


@pytest.fixture(scope="module")
def prompt(admin: Admin, support: dict[str, Any]) -> str:
    """A prompt with production on v1, v2 as candidate and v3 as shadow; and the demo's soft one."""
    name = f"watched-{uuid.uuid4().hex[:6]}"
    for text in ("Be brief.", "Be kind.", "Be precise."):
        admin.imported(name, kind="hard", text=text)
    admin.alias(name, "production", "v1")
    put(
        admin,
        name,
        arms=arms(v1=1, v2=1),
        shadow={"version": "v3", "sample": 1, "mode": "both", "max_concurrency": 4},
    )
    return name


def put(admin: Admin, prompt: str, **document: Any) -> None:
    answer = admin.http.put(f"/prompts/{prompt}/rollout", json=document)
    assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module")
def prometheus(
    server: Server, admin: Admin, prompt: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """Scraped before, between and after: an arm in the split, its promotion, and the way back."""
    target = f"127.0.0.1:{server.port}"
    with running(tmp_path_factory.mktemp("prometheus"), target) as found:
        found.scraped(2)
        traffic(server, admin, prompt)
        shadowed(admin, prompt, found)
        govern(admin, prompt, run_id(1))
        found.scraped(2)
        stepwise(admin, prompt)
        found.scraped(2)
        assert admin.http.post(f"/prompts/{prompt}/rollout/rollback").status_code == 200
        swap(admin)
        govern(admin, prompt, run_id(2))
        found.scraped(4)
        yield found


def traffic(server: Server, admin: Admin, prompt: str) -> None:
    """Both arms, two cohorts, one pinned, one soft, one that is refused and one that goes away."""
    for number in range(16):
        cohort = {"x-softprompt-cohort": "regulated"} if number % 3 == 0 else {}
        chat(admin, prompt, headers={"x-softprompt-sticky-key": str(number), **cohort})
    chat(admin, f"{prompt}@v3")
    chat(admin, "support")
    answer = admin.http.put(f"/prompts/{prompt}/aliases/next", json={"version": "v9"})
    assert answer.status_code == 404
    body = {"model": f"{prompt}@v9", "messages": [{"role": "user", "content": TICKET}]}
    assert admin.root.post("/v1/chat/completions", json=body).status_code == 404
    with server.client().chat.completions.create(
        model=prompt, messages=body["messages"], max_tokens=200, stream=True
    ) as stream:
        next(iter(stream))


def shadowed(admin: Admin, prompt: str, prometheus: Prometheus) -> None:
    """Requests, until two scrapes have seen that the shadow's pairs grew in number between them."""
    keys = iter(range(1000))
    of = f'prompt="{prompt}", cohort="default"'

    def growing() -> bool:
        chat(admin, prompt, headers={"x-softprompt-sticky-key": f"shadow-{next(keys)}"})
        return all(
            prometheus.query(f"rate(softprompt_shadow_{name}{{{of}}}[{RATES}]) > 0")
            for name in ("pairs_total", "divergence_nats_count")
        )

    prometheus.until(growing)


def stepwise(admin: Admin, prompt: str) -> None:
    """The controller walks v2 to production."""
    step = {"weight": 50, "min_requests": 3, "min_duration_seconds": 0}
    put(admin, prompt, arms=arms(v1=100, v2=0), steps=[step])
    keys = iter(range(1000))

    def promoted() -> bool:
        chat(admin, prompt, headers={"x-softprompt-sticky-key": f"walk-{next(keys)}"})
        state: str = admin.http.get(f"/prompts/{prompt}/rollout").json()["state"]
        return state == "promoted"

    eventually(promoted)


def swap(admin: Admin) -> None:
    """`support` changes its version under way, and back; a tensor is loaded that no other shares."""
    for version in ("v3", "v2"):
        admin.alias("support", "production", version)
        chat(admin, "support")
    rows = torch.randn(20, 576) * 0.02
    name = f"loaded-{uuid.uuid4().hex[:6]}"
    admin.imported(name, safetensors_bytes(rows))
    for resident in (False, True):
        path = f"/prompts/{name}/versions/v1/residency"
        assert admin.http.put(path, json={"resident": resident}).status_code == 200


def govern(admin: Admin, prompt: str, run: str) -> None:
    """A policy, evidence and a token come and go."""
    versions = admin.http.get(f"/prompts/{prompt}/versions").json()
    digests = {version["version"]: version["digest"] for version in versions}
    evidence = scored(digests, id=run, prompt=prompt, at=time.time() - 1)
    token = admin.http.post("/tokens", json={"name": f"t{run[-1]}-{prompt}", "scopes": ["reader"]})
    for answer in (
        token,
        admin.http.put(f"/prompts/{prompt}/policy", json={"baseline": "v1"}),
        admin.http.post(f"/prompts/{prompt}/runs", content=to_document(evidence)),
        admin.http.delete(f"/prompts/{prompt}/policy"),
        admin.http.delete(f"/tokens/t{run[-1]}-{prompt}"),
    ):
        assert answer.is_success, answer.text


def test_every_query_has_an_answer(prometheus: Prometheus) -> None:
    found = ask(prometheus, SECONDS, {"__rate_interval": RATES})
    assert found.errors == {}
    assert found.empty - MAY_BE_EMPTY.keys() == set()


def test_every_query_has_an_answer_for_one_prompt_and_cohort(
    prometheus: Prometheus, prompt: str
) -> None:
    chosen = {"prompt": prompt, "version": "(v1|v2|v3)", "cohort": "default", "route": "default"}
    found = ask(prometheus, SECONDS, chosen | {"__rate_interval": RATES})
    assert found.errors == {}
    # Of another prompt, of none, and from before the first look.
    elsewhere = ("Swaps of an alias", "Tokens", "Versions")
    others = {place for place in found.empty if place.endswith(elsewhere)}
    assert found.empty - MAY_BE_EMPTY.keys() - others == set()


def samples(prometheus: Prometheus, name: str) -> dict[float, float]:
    (series,) = prometheus.query(f"{name}[{SECONDS}s]")
    return {at: float(value) for at, value in series["values"]}


def test_every_scrape_was_stored(prometheus: Prometheus) -> None:
    """But for one that a busy machine does not answer within the second until the next."""
    up, took = samples(prometheus, "up"), samples(prometheus, "scrape_duration_seconds")
    late = {at for at, seconds in took.items() if seconds > 0.9}
    assert [at for at, value in up.items() if not value and at not in late] == []
    assert len(late) < len(up) / 4


def test_every_rule_is_evaluated_and_nothing_is_amiss(prometheus: Prometheus, prompt: str) -> None:
    groups = prometheus.get("/rules")["groups"]
    assert [r["lastError"] for g in groups for r in g["rules"] if r.get("lastError")] == []
    firing = [rule.name for rule in rules() if rule.alert and prometheus.query(rule.expr)]
    assert firing == []


def test_a_measurement_leads_to_its_trace(
    server: Server, prometheus: Prometheus, prompt: str
) -> None:
    raw = server.client().chat.completions.with_raw_response.create(
        model=prompt, messages=[{"role": "user", "content": TICKET}], max_tokens=2
    )
    trace = raw.headers["x-softprompt-trace-id"]
    buckets = f'softprompt_request_duration_seconds_bucket{{prompt="{prompt}"}}'

    def kept() -> bool:
        found = prometheus.exemplars(buckets, SECONDS)
        return trace in {exemplar["labels"]["trace_id"] for exemplar in found}

    prometheus.until(kept)


def test_the_controllers_promotion_and_the_rollback_are_marked(
    prometheus: Prometheus, prompt: str
) -> None:
    counted = f'softprompt_operations_total{{prompt="{prompt}", result="ok"}}'
    made = {s["metric"]["operation"]: s["value"][1] for s in prometheus.query(counted)}
    assert made["promote"] == made["rollback"] == "1"
    decided = f'softprompt_controller_decisions_total{{prompt="{prompt}"}}'
    assert {s["metric"]["decision"] for s in prometheus.query(decided)} >= {"advance", "promote"}
