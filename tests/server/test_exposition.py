"""GET /metrics in the format that was asked for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
import pytest
from measured import TARIFF, Measured
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from rollout.events import event
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from softprompt_serve.server.exposition import OpenMetrics
from softprompt_serve.telemetry.events import TraceRef

if TYPE_CHECKING:
    from collections.abc import Mapping

# As Prometheus 3 sends it.
ACCEPT = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
FOUND = Measured(prices=TARIFF).emit(event(trace=TraceRef("a" * 32, "b" * 16)))


def ask(
    path: str = "/metrics",
    accept: str | None = ACCEPT,
    *,
    method: str = "GET",
    root_path: str = "",
    headers: Mapping[str, str] | None = None,
) -> httpx.Response:
    async def theirs(_request: Request) -> PlainTextResponse:
        return PlainTextResponse("theirs\n" + generate_latest(FOUND.registry).decode())

    methods = ["GET", "POST", "HEAD"]
    inner = Starlette(
        routes=[Route(at, theirs, methods=methods) for at in ("/metrics", "/metrics/", "/v1/x")]
    )

    async def call() -> httpx.Response:
        app = OpenMetrics(inner, FOUND.registry)
        transport = httpx.ASGITransport(app, root_path=root_path)
        given = {"accept": accept or "*/*", **(headers or {})}
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await client.request(method, path, headers=given)

    return asyncio.run(call())


def test_openmetrics_is_answered_with_exemplars() -> None:
    answer = ask()
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    traces = {
        sample.exemplar.labels["trace_id"]
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.exemplar is not None
    }
    assert traces == {"a" * 32}


@pytest.mark.parametrize("accept", [None, "text/plain", "text/plain;version=0.0.4;q=0.3,*/*;q=0.1"])
def test_who_asks_for_plain_text_gets_what_they_always_got(accept: str | None) -> None:
    assert ask(accept=accept).text.startswith("theirs")


@pytest.mark.parametrize("path", ["/v1/x", "/metrics/"])
def test_other_paths_are_not_ours(path: str) -> None:
    assert ask(path).text.startswith("theirs")


@pytest.mark.parametrize("method", ["POST", "HEAD"])
def test_other_methods_are_not_ours(method: str) -> None:
    assert "openmetrics" not in ask(method=method).headers["content-type"]


def test_below_a_root_path_it_is_found() -> None:
    assert "openmetrics" in ask("/llm/metrics", root_path="/llm").headers["content-type"]


def test_where_several_processes_write_metrics_vllm_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "somewhere")
    assert ask().text.startswith("theirs")


def test_it_is_packed_for_who_can_unpack_it() -> None:
    packed, plain = ask(), ask(headers={"accept-encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"  # httpx unpacks it
    assert int(packed.headers["content-length"]) < len(plain.content) / 5
    assert "content-encoding" not in plain.headers
    assert packed.text == plain.text


@pytest.mark.parametrize(
    "accept",
    [ACCEPT, "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"],
)
def test_vllm_s_names_keep_their_colon_whatever_prometheus_asks(accept: str) -> None:
    registry = CollectorRegistry()
    Counter("vllm:tokens_by_source", "Tokens.", ["source"], registry=registry).labels("x").inc()

    async def call() -> str:
        transport = httpx.ASGITransport(OpenMetrics(Starlette(), registry))
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return (await client.get("/metrics", headers={"accept": accept})).text

    (family,) = text_string_to_metric_families(asyncio.run(call()))
    assert family.name == "vllm:tokens_by_source"
    assert family.samples[0].name == "vllm:tokens_by_source_total"
