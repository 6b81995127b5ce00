"""Promotions over HTTP: no evidence, no promotion, by whatever way; force takes a reason."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import pytest
from server.answers import V1, VERSIONS, code_of
from server.conftest import Api
from server.test_verdicts import POLICY, compared, evaluated, send

from softprompt_serve.registry.catalog import Catalogue
from softprompt_serve.registry.guard import Pass, Ungranted
from softprompt_serve.registry.policies import Policies
from softprompt_serve.release.policy import parse_policy
from softprompt_serve.server import promotion
from softprompt_serve.telemetry.events import Operation

Serve = Callable[..., AbstractAsyncContextManager[Api]]

pytestmark = pytest.mark.anyio

URL = f"{V1}/prompts/support"
ARMS = [{"version": "v1", "weight": 90}, {"version": "v2", "weight": 10}]
WHY = "The vendor's outage leaves us no choice."


@pytest.fixture
def guarded(serve: Serve) -> Serve:
    """As a server is by default: policies are enforced."""

    def start(**settings: Any) -> AbstractAsyncContextManager[Api]:
        return serve(promotion_gates="enforce", **settings)

    return start


async def ready(api: Api, *, proven: bool = False) -> dict[str, str]:
    """v1, a text, is production; v2, a tensor, wants to be."""
    digests = await compared(api)
    assert (await api.alias("v1")).status_code == 200
    answer = await api.client.put(f"{URL}/policy", json=POLICY)
    assert answer.status_code == 200, answer.text
    if proven:
        await send(api, evaluated(digests))
    return digests


def by_alias(api: Api, **force: Any) -> Any:
    return api.client.put(f"{URL}/aliases/production", json={"version": "v2", **force})


def by_promotion(api: Api, **force: Any) -> Any:
    return api.client.post(f"{URL}/rollout/promote", json={"version": "v2", **force})


def by_weights(api: Api) -> Any:
    return api.client.put(f"{URL}/rollout/weights", json={"v2": 100})


def by_document(api: Api) -> Any:
    return api.client.put(f"{URL}/rollout", json={"arms": [{"version": "v2", "weight": 1}]})


def by_document_that_leaves_the_rest_nothing(api: Api) -> Any:
    arms = [{"version": "v1", "weight": 0}, {"version": "v2", "weight": 1}]
    return api.client.put(f"{URL}/rollout", json={"arms": arms})


WAYS = (
    by_alias,
    by_promotion,
    by_weights,
    by_document,
    by_document_that_leaves_the_rest_nothing,
)
every_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)


async def production(api: Api) -> str:
    answer = await api.client.get(URL)
    aliases: dict[str, str] = answer.json()["aliases"]
    return aliases["production"]


async def newest_change(api: Api) -> dict[str, Any]:
    answer = await api.client.get(f"{V1}/audit", params={"limit": 1})
    (entry,) = answer.json()["data"]
    return dict(entry)


@every_way
async def test_without_evidence_a_version_is_not_promoted(
    guarded: Serve, way: Callable[[Api], Any]
) -> None:
    async with guarded() as api:
        await ready(api)
        before = await newest_change(api)
        answer: httpx.Response = await way(api)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (409, "gates_failed")
        failed = [gate for gate in error["details"]["gates"] if not gate["passed"]]
        assert failed
        for gate in failed:
            assert gate["hint"]
            assert gate["name"] in error["message"]
        assert await production(api) == "v1"
        assert await newest_change(api) == before


@every_way
async def test_what_has_earned_it_is_promoted(guarded: Serve, way: Callable[[Api], Any]) -> None:
    async with guarded() as api:
        await ready(api, proven=True)
        answer: httpx.Response = await way(api)
        assert answer.status_code == 200, answer.text
        detail = (await newest_change(api))["detail"]
        assert detail["gates"] == "passed"
        assert len(detail["policy"]) == 16


async def test_a_canary_needs_no_evidence(guarded: Serve) -> None:
    async with guarded() as api:
        await ready(api)
        answer = await api.client.put(f"{URL}/rollout", json={"arms": ARMS})
        assert answer.status_code == 200, answer.text
        candidate = await api.alias("v2", "candidate")
        assert candidate.status_code == 200


async def test_an_alias_that_the_policy_names_is_guarded_too(guarded: Serve) -> None:
    async with guarded() as api:
        digests = await ready(api)
        policy = {**POLICY, "guarded": ["production", "stable"]}
        await api.client.put(f"{URL}/policy", json=policy)
        assert code_of_gates(await api.alias("v2", "stable")) == "gates_failed"
        await send(api, evaluated(digests))
        assert (await api.alias("v2", "stable")).status_code == 200


def code_of_gates(answer: httpx.Response) -> str:
    assert answer.status_code == 409, answer.text
    return str(answer.json()["error"]["code"])


async def test_without_a_policy_a_soft_version_has_the_default_one_to_pass(guarded: Serve) -> None:
    async with guarded() as api:
        await compared(api)
        assert code_of_gates(await by_alias(api)) == "gates_failed"
        assert (await api.alias("v1")).status_code == 200


async def test_a_prompt_of_texts_alone_is_asked_for_nothing(guarded: Serve) -> None:
    async with guarded() as api:
        for text in ("Be brief.", "Be kind."):
            await api.import_text(text)
        for version in ("v1", "v2"):
            assert (await api.alias(version)).status_code == 200
        assert "gates" not in (await newest_change(api))["detail"]


@pytest.mark.parametrize("way", [by_alias, by_promotion])
async def test_force_takes_a_reason(guarded: Serve, way: Callable[..., Any]) -> None:
    async with guarded() as api:
        await ready(api)
        for force in ({"force": True}, {"force": True, "reason": "  "}):
            answer = await way(api, **force)
            assert answer.status_code in {400, 422}
            assert "reason" in answer.json()["error"]["message"]
        assert code_of_gates(await way(api, reason=WHY)) == "gates_failed"
        assert await production(api) == "v1"


@pytest.mark.parametrize("way", [by_alias, by_promotion])
async def test_a_forced_promotion_is_done_and_told(guarded: Serve, way: Callable[..., Any]) -> None:
    async with guarded() as api:
        await ready(api)
        told: list[Operation] = []
        api.service.events.listen(Operation, told.append)
        answer = await way(api, force=True, reason=WHY)
        assert answer.status_code == 200, answer.text
        assert await production(api) == "v2"
        detail = (await newest_change(api))["detail"]
        assert (detail["gates"], detail["forced"]) == ("forced", WHY)
        assert detail["failed"]
        assert told[-1].attributes["forced"] == WHY


async def test_force_where_nothing_has_to_be_forced_is_no_forced_promotion(guarded: Serve) -> None:
    async with guarded() as api:
        await ready(api, proven=True)
        assert (await by_promotion(api, force=True, reason=WHY)).status_code == 200
        assert (await newest_change(api))["detail"]["gates"] == "passed"


async def test_the_way_back_is_always_open(guarded: Serve) -> None:
    async with guarded() as api:
        await ready(api, proven=True)
        assert (await by_promotion(api)).status_code == 200
        assert (await api.client.delete(f"{URL}/policy")).status_code == 200
        strict = {**POLICY, "min_items": 100_000}
        assert (await api.client.put(f"{URL}/policy", json=strict)).status_code == 200
        back = await api.client.post(f"{URL}/rollout/promote", json={"version": "v1"})
        assert back.status_code == 200, back.text  # the baseline
        again = await api.client.post(f"{URL}/rollout/rollback")
        assert again.status_code == 200, again.text  # to v2, which would not pass now
        assert await production(api) == "v2"
        assert (await api.alias("v1")).status_code == 200
        assert code_of_gates(await by_alias(api)) == "gates_failed"


async def test_gates_that_are_off_are_only_looked_at(serve: Serve) -> None:
    async with serve(promotion_gates="off") as api:
        await ready(api)
        assert (await api.client.get(f"{VERSIONS}/v2/gates")).json()["promotable"] is False
        assert (await by_alias(api)).status_code == 200


async def test_a_restart_forgets_neither_policy_nor_evidence(guarded: Serve) -> None:
    async with guarded() as api:
        await ready(api)
    async with guarded() as api:
        assert code_of_gates(await by_alias(api)) == "gates_failed"


async def test_a_pass_is_for_one_content_under_one_policy(guarded: Serve) -> None:
    async with guarded() as api:
        digests = await ready(api)
        catalogue = api.service.catalogue
        assert isinstance(catalogue, Catalogue)
        tag = (await api.client.get(f"{URL}/policy")).json()["tag"]
        for wrong in (
            None,
            Pass("v1", digests["v2"], tag),
            Pass("v2", digests["v1"], tag),
            Pass("v2", digests["v2"], "0" * 16),
        ):
            with pytest.raises(Ungranted):
                catalogue.set_alias("support", "production", "v2", granted=wrong)
        catalogue.set_alias("support", "production", "v2", granted=Pass("v2", digests["v2"], tag))


async def test_a_policy_that_changes_while_a_version_is_judged_is_the_one_that_counts(
    guarded: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was granted under the old policy is asked for again under the new one."""
    async with guarded() as api:
        await ready(api, proven=True)
        grant, strict = promotion.grant, {**POLICY, "min_items": 100_000}

        def late(*given: Any) -> Pass:
            granted = grant(*given)
            if granted.reason is None and not changed:
                changed.append(True)
                Policies(api.service.catalogue.database).put("support", parse_policy(strict))
            return granted

        changed: list[bool] = []
        monkeypatch.setattr(promotion, "grant", late)
        assert code_of_gates(await by_alias(api)) == "gates_failed"
        assert changed
        assert await production(api) == "v1"


async def test_what_is_refused_is_refused_in_openais_shape(guarded: Serve) -> None:
    async with guarded() as api:
        await ready(api)
        answer = await by_alias(api)
        assert set(answer.json()["error"]) == {"message", "type", "param", "code", "details"}
        missing = await api.client.put(f"{URL}/aliases/production", json={"version": "v9"})
        assert code_of(missing) == "version_not_found"


async def test_the_baseline_of_a_policy_stays_alive(guarded: Serve) -> None:
    async with guarded() as api:
        await ready(api, proven=True)
        assert (await by_promotion(api)).status_code == 200
        assert (await api.client.delete(f"{URL}/rollout")).status_code == 200
        unloaded = await api.client.put(f"{VERSIONS}/v1/residency", json={"resident": False})
        removed = await api.client.delete(f"{VERSIONS}/v1")
        for answer in (unloaded, removed):
            assert (answer.status_code, code_of(answer)) == (409, "version_is_baseline")
        assert (await api.client.delete(f"{URL}/policy")).status_code == 200
        assert (await api.client.delete(f"{VERSIONS}/v1")).status_code == 200
