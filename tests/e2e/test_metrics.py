"""Metrics of a real server, as Prometheus reads them from vLLM's own page."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from e2e.conftest import TICKET
from e2e.harness import Admin, Server
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

MESSAGES: Any = [{"role": "user", "content": TICKET}]
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


class Page:
    """What one scrape of our metrics says."""

    def __init__(self, admin: Admin, accept: str = "") -> None:
        answer = admin.root.get("/metrics", headers={"accept": accept} if accept else {})
        assert answer.status_code == 200
        self.text = answer.text
        self.kind = answer.headers["content-type"]
        parse = openmetrics if "openmetrics" in self.kind else plain
        self.samples = [s for family in parse(answer.text) for s in family.samples]

    def of(self, name: str, **labels: str) -> list[Any]:
        """Samples of that name with at least these labels."""
        return [
            sample
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]

    def value(self, name: str, **labels: str) -> float:
        found = self.of(name, **labels)
        assert found, f"{name}{labels} is absent"
        return sum(sample.value for sample in found)


def eventually(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture(scope="module")
def prompt(admin: Admin) -> str:
    """A prompt with a canary that nobody has asked for yet."""
    name = f"measured-{uuid.uuid4().hex[:6]}"
    for text in ("Be brief.", "Be kind."):
        admin.imported(name, kind="hard", text=text)
    admin.alias(name, "production", "v1")
    document = {"arms": [{"version": "v1", "weight": 90}, {"version": "v2", "weight": 10}]}
    assert admin.http.put(f"/prompts/{name}/rollout", json=document).status_code == 200
    return name


def test_an_arm_is_there_at_zero_before_anybody_asks(admin: Admin, prompt: str) -> None:
    page = Page(admin)
    for version in ("v1", "v2"):
        assert page.value("softprompt_requests_total", prompt=prompt, version=version) == 0
        for kind in ("thumbs_up", "thumbs_down"):
            assert (
                page.value("softprompt_feedback_total", prompt=prompt, version=version, kind=kind)
                == 0
            )
    assert page.of("softprompt_cost_usd_total", prompt=prompt) == []  # there is no tariff


def test_an_answer_is_counted_by_all_that_it_can_be_sliced_by(
    server: Server, admin: Admin, prompt: str
) -> None:
    answer = server.client().chat.completions.create(
        model=f"{prompt}@v2",
        messages=MESSAGES,
        max_tokens=4,
        extra_headers={"x-softprompt-cohort": "regulated"},
    )
    assert answer.usage is not None
    labels = {"prompt": prompt, "version": "v2", "arm": "v2", "cohort": "regulated"}
    labels |= {"route": "default", "base_model": "SmolLM2-135M-Instruct"}
    eventually(lambda: bool(Page(admin).of("softprompt_requests_total", **labels, status="200")))
    page = Page(admin)
    assert page.value("softprompt_requests_total", **labels, status="200") == 1
    assert page.value("softprompt_visible_tokens_total", **labels) == answer.usage.prompt_tokens
    assert page.value("softprompt_output_tokens_total", **labels) == answer.usage.completion_tokens
    for name in ("time_to_first_token", "request_duration", "queue", "prefill"):
        assert page.value(f"softprompt_{name}_seconds_count", **labels) == 1
    duration = page.value("softprompt_request_duration_seconds_sum", **labels)
    parts = [
        page.value(f"softprompt_{part}_seconds_sum", **labels) for part in ("queue", "prefill")
    ]
    assert 0 < sum(parts) < duration


def test_a_slow_bucket_leads_to_its_trace(server: Server, admin: Admin, prompt: str) -> None:
    raw = server.client().chat.completions.with_raw_response.create(
        model=prompt, messages=MESSAGES, max_tokens=2
    )
    trace = raw.headers["x-softprompt-trace-id"]

    def found() -> bool:
        page = Page(admin, OPENMETRICS)
        buckets = page.of("softprompt_request_duration_seconds_bucket", prompt=prompt)
        return any(b.exemplar and b.exemplar.labels["trace_id"] == trace for b in buckets)

    eventually(found)
    assert Page(admin, OPENMETRICS).of("vllm:num_requests_running")


def test_the_rollout_and_the_bank_are_shown(admin: Admin, prompt: str) -> None:
    page = Page(admin)
    assert page.value("softprompt_rollout_weight_ratio", prompt=prompt, version="v2") == 0.1
    generation = page.value("softprompt_rollout_generation", prompt=prompt)
    assert generation == page.value("softprompt_rollout_applied_generation", prompt=prompt) >= 1
    assert page.value("softprompt_rollout_state", prompt=prompt, state="static") == 1
    assert (
        page.value("softprompt_rollout_arm_info", prompt=prompt, version="v1", role="baseline") == 1
    )
    assert page.value("softprompt_bank_capacity_rows") == 1024
    (worker,) = admin.workers()
    assert page.value("softprompt_bank_used_rows") == worker["used_rows"]
    assert page.value("softprompt_bank_resident_versions") == len(worker["resident"])
    assert page.value("softprompt_build_info") == 1
    assert page.value("softprompt_operations_total", operation="rollout", prompt=prompt) == 1


def test_no_text_of_anybody_is_in_metrics(admin: Admin) -> None:
    assert not re.search(r"Be brief|parcel", Page(admin, OPENMETRICS).text)
