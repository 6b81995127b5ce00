"""``GET …/shadow``: what all replicas have counted, summed up."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from server.answers import V1, code_of
from shadows import answer, job

from softprompt_serve.shadow.compare import Likelihood, compare
from softprompt_serve.shadow.ledger import Ledger

Serve = Callable[..., AbstractAsyncContextManager[Any]]

pytestmark = pytest.mark.anyio

PATH = f"{V1}/prompts/support/shadow"


async def roll_out(api: Any, **shadow: Any) -> int:
    """Two versions, the first in production, the second in its shadow; the epoch."""
    for seed in range(2):
        await api.import_soft(2, seed)
    await api.alias("v1")
    document: dict[str, Any] = {"arms": [{"version": "v1", "weight": 1}]}
    if shadow:
        document["shadow"] = {"version": "v2", "sample": 1.0} | shadow
    put = await api.client.put(f"{V1}/prompts/support/rollout", json=document)
    assert put.status_code == 200, put.text
    epoch: int = put.json()["epoch"]
    return epoch


async def get(api: Any) -> dict[str, Any]:
    got = await api.client.get(PATH)
    assert got.status_code == 200, got.text
    found: dict[str, Any] = got.json()
    return found


async def test_an_unknown_prompt_is_404(serve: Serve) -> None:
    async with serve() as api:
        got = await api.client.get(PATH)
        assert (got.status_code, code_of(got)) == (404, "prompt_not_found")


async def test_it_asks_for_the_admin_token(serve: Serve) -> None:
    async with serve(token=None) as api:
        assert (await api.client.get(PATH)).status_code == 401


async def test_a_prompt_without_a_rollout_has_no_shadow_and_no_counts(serve: Serve) -> None:
    async with serve() as api:
        await api.import_soft()
        found = await get(api)
        assert (found["shadow"], found["generation"], found["cohorts"]) == (None, 0, {})
        assert (found["overall"]["pairs"], found["shed"], found["samples"]) == (0, {}, None)
        assert found["overall"]["rates"]["exact"] == {
            "count": 0,
            "of": 0,
            "rate": None,
            "low": None,
            "high": None,
        }


async def test_a_rollout_without_a_shadow_likewise(serve: Serve) -> None:
    async with serve() as api:
        await roll_out(api)
        found = await get(api)
        assert (found["shadow"], found["generation"]) == (None, 1)


async def test_the_shadow_is_shown_as_the_rollout_has_it(serve: Serve) -> None:
    async with serve() as api:
        epoch = await roll_out(api, sample=0.25, mode="both")
        found = await get(api)
        assert (found["shadow"]["version"], found["shadow"]["sample"]) == ("v2", 0.25)
        assert (found["epoch"], found["generation"], found["replicas"]) == (epoch, 1, 0)


def counted(cohort: str, epoch: int, *shadows: str) -> Ledger:
    """Users were answered `one`."""
    ledger = Ledger()
    for text in shadows:
        one = job(cohort=cohort, epoch=epoch)
        ledger.offered(one)
        ledger.compared(one, compare(answer("one"), answer(text), wants_json=False))
        ledger.scored(one, Likelihood(0.5, 1.5, 10))
    ledger.shed(job(cohort=cohort, epoch=epoch), "busy")
    return ledger


async def test_replicas_are_summed_up_overall_and_by_cohort(serve: Serve) -> None:
    async with serve() as api:
        epoch = await roll_out(api, mode="both")
        for replica, ledger in {
            "a": counted("default", epoch, "one", "two"),
            "b": counted("regulated", epoch, "one"),
            "c": counted("default", epoch, "one"),
        }.items():
            api.service.tallies.write(ledger.dirty(replica))
        found = await get(api)
        assert found["replicas"] == 3
        assert found["shed"] == found["overall"]["shed"] == {"busy": 3}
        assert (found["overall"]["pairs"], found["overall"]["mismatches"]) == (4, 1)
        assert {name: one["pairs"] for name, one in found["cohorts"].items()} == {
            "default": 3,
            "regulated": 1,
        }
        exact = found["cohorts"]["default"]["rates"]["exact"]
        assert (exact["count"], exact["of"]) == (2, 3)
        assert exact["low"] < exact["rate"] < exact["high"]
        divergence = found["overall"]["divergence"]
        assert (divergence["of"], divergence["tokens"], divergence["mean"]) == (4, 40, 0.5)
        assert divergence["p50"] == pytest.approx(0.5, rel=0.03)
        similarity = found["overall"]["means"]["similarity"]
        assert similarity["low"] < similarity["mean"] < similarity["high"]


async def test_a_former_epochs_counts_are_not_shown(serve: Serve) -> None:
    async with serve() as api:
        epoch = await roll_out(api, mode="both")
        api.service.tallies.write(counted("default", epoch - 1, "one").dirty("a"))
        assert (await get(api))["overall"]["pairs"] == 0


async def test_samples_are_shown_where_content_is_captured(serve: Serve) -> None:
    async with serve(capture_content=True) as api:
        epoch = await roll_out(api, mode="generate")
        capture = api.service.capture
        assert (await get(api))["samples"] == []
        user, shadow = answer("one"), answer("two", tool_calls=(("refund", "{}"),))
        capture.keep(job(epoch=epoch), user, shadow, compare(user, shadow, wants_json=False))
        (sample,) = (await get(api))["samples"]
        assert (sample["user"]["text"], sample["user"]["version"]) == ("one", "v1")
        assert (sample["shadow"]["text"], sample["shadow"]["version"]) == ("two", "v2")
        assert sample["shadow"]["tool_calls"] == [{"name": "refund", "arguments": "{}"}]
        assert sample["comparison"]["exact"] is False


async def test_it_is_documented_in_openapi(serve: Serve) -> None:
    async with serve() as api:
        paths = (await api.client.get("/openapi.json")).json()["paths"]
        assert "get" in paths[PATH.replace("support", "{name}")]
