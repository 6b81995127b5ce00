"""Whole canaries, driven over HTTP alone: two replicas, lost answers, other writers, retries."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from server.answers import V1
from server.controllers import ROLLOUT, Flagger, Network, Walker, client_of
from server.rollouts import before_release

from softprompt_serve.router.ask import Ask
from softprompt_serve.router.choose import choose
from softprompt_serve.telemetry.events import RequestEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    import httpx

    Serve = Callable[..., AbstractAsyncContextManager[Any]]

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def cluster(
    serve: Serve, **settings: Any
) -> AsyncIterator[tuple[Network, Walker, tuple[Any, Any]]]:
    """Two replicas on one catalogue, and a controller; `support` is about to be released."""
    async with (
        serve(replica_name="one", **settings) as one,
        serve(replica_name="two", **settings) as two,
    ):
        await before_release(one)
        network = Network(one.client._transport, two.client._transport)
        async with client_of(network) as client:
            yield network, Walker(client), (one, two)


async def users_on(client: httpx.AsyncClient, version: str) -> set[int]:
    """Which of 50 users both replicas would answer with ``version``."""
    found: list[set[int]] = []
    for _replica in range(2):
        on = set()
        for user in range(50):
            body = {"sticky_key": f"user-{user}"}
            answer = await client.post(f"{ROLLOUT}/explain", json=body)
            await client.get(f"{V1}/healthz")  # the other replica's turn, so that the next is ours
            if answer.json()["version"] == version:
                on.add(user)
        found.append(on)
        await client.get(f"{V1}/healthz")
    assert found[0] == found[1]
    return found[0]


async def test_a_canary_walks_to_the_end(serve: Serve) -> None:
    async with cluster(serve) as (_, walker, _replicas):
        before: set[int] = set()
        for share in (1, 10, 50):
            state = await walker.weigh(v2=100 - share, v4=share)
            assert [replica["name"] for replica in state["observed"]] == ["one", "two"]
            assert all(replica["applied"] for replica in state["observed"])
            now = await users_on(walker.client, "v4")
            assert before <= now  # whoever was on the candidate stays
            before = now
        assert 10 < len(before) < 40
        state = await walker.promote("v4")
        assert (state["state"], state["production"]) == ("promoted", "v4")
        assert len(await users_on(walker.client, "v4")) == 50
        prompt = (await walker.client.get(f"{V1}/prompts/support")).json()
        assert prompt["aliases"] == {"production": "v4"}


async def test_lost_answers_are_asked_for_again_without_doing_anything_twice(serve: Serve) -> None:
    async with cluster(serve) as (network, walker, _):
        for share in (1, 10, 50):
            network.lose = 1
            await walker.weigh(v2=100 - share, v4=share)
        network.lose = 2
        state = await walker.promote("v4")
        assert network.lost == 5
        assert walker.stale == 3  # its own change, found again by reading
        assert (state["generation"], state["production"]) == (4, "v4")
        history = (await walker.client.get(f"{ROLLOUT}/history")).json()["data"]
        assert [entry["action"] for entry in history] == ["promoted", *["weights"] * 3, "none"]


async def test_somebody_elses_change_is_noticed_and_read_before_the_next_write(
    serve: Serve,
) -> None:
    async with cluster(serve) as (network, walker, _):
        await walker.weigh(v2=99, v4=1)

        async def somebody_else(_: httpx.Request) -> None:
            answer = await walker.client.put(f"{ROLLOUT}/weights", json={"v2": 80, "v4": 20})
            assert answer.status_code == 200

        network.before_change = somebody_else
        state = await walker.weigh(v2=90, v4=10)
        assert walker.stale == 1
        assert (state["generation"], state["weights"]) == (3, {"v2": 90, "v4": 10})


async def test_a_canary_that_is_rolled_back_midway_leaves_nothing_behind(serve: Serve) -> None:
    async with cluster(serve) as (network, walker, _):
        before = await walker.read()
        await walker.weigh(v2=99, v4=1)
        await walker.weigh(v2=90, v4=10)
        network.lose = 1  # so the rollback is sent twice
        after = await walker.roll_back()
        assert after == await walker.roll_back() | {"observed": after["observed"]}
        assert after["state"] == "rolled_back"
        assert (after["weights"], after["production"]) == (before["weights"], before["production"])
        assert await users_on(walker.client, "v4") == set()


async def test_a_rollback_returns_to_the_release_before_with_its_rules(serve: Serve) -> None:
    async with cluster(serve) as (network, walker, _):
        rule = {"name": "tools", "match": {"tools": True}, "version": "v2"}
        first = {"arms": [{"version": "v2", "weight": 100}], "rules": [rule]}
        before = (await walker.client.put(ROLLOUT, json=first)).json()
        await walker.weigh(v2=50, v4=50)
        await walker.weigh(v2=10, v4=90)
        network.lose = 1
        after = await walker.roll_back()
        assert after["spec"] == before["spec"]
        assert (after["weights"], after["production"]) == (before["weights"], before["production"])


async def test_after_a_promotion_one_call_leads_back(serve: Serve) -> None:
    async with cluster(serve) as (_, walker, _replicas):
        await walker.weigh(v2=50, v4=50)
        await walker.promote("v4")
        state = await walker.roll_back()
        assert (state["production"], state["weights"]) == ("v2", {"v2": 100})


async def test_flagger_watches_a_canary_to_its_end(serve: Serve) -> None:
    async with (
        cluster(serve) as (network, walker, _),
        client_of(network, user="flagger") as client,
    ):
        await walker.weigh(v2=90, v4=10)
        flagger = Flagger(client)
        network.lose = 0
        while flagger.phase not in {"Finalising", "Failed"}:
            await flagger.tick()
        network.lose = 1  # the answer to the promotion, which is sent again
        await flagger.tick()
        assert flagger.phase == "Succeeded"
        assert (flagger.failed_checks, network.lost) == (0, 1)
        asked = [hook for hook, _ in flagger.said if hook != "rollback"]
        assert asked == [
            "confirm-rollout",
            "pre-rollout",
            *["rollout"] * 3,
            "confirm-promotion",
            "post-rollout",
        ]
        state = await walker.applied(2)
        assert (state["generation"], state["production"], state["state"]) == (2, "v4", "promoted")


async def test_flaggers_failure_is_ours(serve: Serve) -> None:
    async with (
        cluster(serve) as (network, walker, _),
        client_of(network, user="flagger") as client,
    ):
        before = await walker.read()
        await walker.weigh(v2=90, v4=10)
        flagger = Flagger(client)
        flagger.healthy = False
        while flagger.phase not in {"Succeeded", "Failed"}:
            await flagger.tick()
        assert (flagger.phase, flagger.failed_checks) == ("Failed", 2)
        state = await walker.applied(2)
        assert (state["weights"], state["production"]) == (before["weights"], before["production"])


async def test_our_rollback_is_flaggers_failure(serve: Serve) -> None:
    async with (
        cluster(serve) as (network, walker, _),
        client_of(network, user="flagger") as client,
    ):
        await walker.weigh(v2=90, v4=10)
        flagger = Flagger(client)
        await flagger.tick()
        await flagger.tick()
        rolled_back = await walker.roll_back()
        await flagger.tick()
        assert flagger.phase == "Failed"
        assert flagger.said[-2:] == [("rollback", 200), ("post-rollout", 200)]
        assert (await walker.read())["generation"] == rolled_back["generation"]


async def test_flagger_waits_for_the_steps_that_it_cannot_set(serve: Serve) -> None:
    async with (
        cluster(serve) as (network, walker, _),
        client_of(network, user="flagger") as client,
    ):
        arms = [{"version": "production", "weight": 100}, {"version": "v4", "weight": 0}]
        steps = [{"weight": 10, "min_requests": 1_000_000}]
        await walker.client.put(ROLLOUT, json={"arms": arms, "steps": steps})
        await walker.applied(1)
        flagger = Flagger(client)
        for _ in range(10):
            await flagger.tick()
        assert (flagger.phase, flagger.failed_checks) == ("WaitingPromotion", 0)
        await walker.promote("v4")  # as the built-in controller does after the last step
        for _ in range(3):
            await flagger.tick()
        assert flagger.phase == "Succeeded"
        assert (await walker.read())["production"] == "v4"


def answer_users(replica: Any, *, failing: str) -> None:
    """A replica answers 500 users, and those on one version wrongly."""
    service = replica.service
    for user in range(500):
        decision = choose(service.snapshot, "support", Ask(key=f"user-{user}"))
        failed = decision.version.version == failing
        service.events.emit(
            RequestEvent(
                request_id=f"request-{user}",
                decision=decision,
                status=500 if failed else 200,
                error="engine_failed" if failed else None,
                started_at=0.0,
                ttft_seconds=None if failed else 0.1,
                e2e_seconds=0.2,
                visible_tokens=10,
                virtual_tokens=4,
                cached_tokens=0,
                output_tokens=5,
                finish_reasons=() if failed else ("stop",),
            )
        )


async def test_a_broken_gate_ends_the_canary_at_flagger_too(serve: Serve) -> None:
    async with (
        cluster(serve, controller_seconds=0.02) as (network, walker, replicas),
        client_of(network, user="flagger") as client,
    ):
        before = await walker.read()
        arms = [{"version": "production", "weight": 100}, {"version": "v4", "weight": 0}]
        document = {
            "arms": arms,
            "steps": [{"weight": 50, "min_requests": 1_000_000}],
            "gates": [{"metric": "error_rate", "max_increase": 0.01}],
        }
        await walker.client.put(ROLLOUT, json=document)
        assert (await walker.applied(2))["weights"] == {"v2": 50, "v4": 50}
        flagger = Flagger(client, threshold=1000)
        for _ in range(3):
            await flagger.tick()
        assert flagger.phase == "Progressing"
        for replica in replicas:
            answer_users(replica, failing="v4")
        state = await walker.applied(3)
        assert (state["state"], state["weights"]) == ("rolled_back", before["weights"])
        await flagger.tick()
        assert flagger.phase == "Failed"
        assert (await walker.read())["generation"] == state["generation"]
