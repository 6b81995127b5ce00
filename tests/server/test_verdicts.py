"""Whether a version could be promoted, as the API says it: policy, evidence and base together."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, replace
from typing import Any

import pytest
from runs import EVALUATOR, run_id, scored
from server.answers import V1, VERSIONS, code_of
from server.conftest import Api

from softprompt_serve.release.evidence import Base, Run
from softprompt_serve.release.evidence_shapes import to_document

Serve = Callable[..., AbstractAsyncContextManager[Api]]

pytestmark = pytest.mark.anyio

URL = f"{V1}/prompts/support"
POLICY = {
    "baseline": "v1",
    "win": [{"evaluator": EVALUATOR, "dataset": "tickets"}],
    "cohorts": {"protected": []},
    "same_base": False,
}
ITEMS = 80


async def compared(api: Api) -> dict[str, str]:
    """`support` with v1, a text, and v2, a tensor; returns their digests."""
    made = [await api.import_text(), await api.import_soft()]
    return {answer.json()["version"]: answer.json()["digest"] for answer in made}


def evaluated(digests: dict[str, str], right: int = 70, **about: Any) -> Run:
    """v1 passes half of the items, v2 ``right`` of them."""
    passed = {
        "v1": [number % 2 == 0 for number in range(ITEMS)],
        "v2": [number < right for number in range(ITEMS)],
    }
    return scored(digests, passed, cohorts=("default",), **{"at": time.time(), **about})


async def send(api: Api, run: Run) -> None:
    answer = await api.client.post(f"{URL}/runs", content=to_document(run))
    assert answer.status_code == 201, answer.text


async def gates(api: Api, version: str = "v2") -> dict[str, Any]:
    answer = await api.client.get(f"{VERSIONS}/{version}/gates")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_without_evidence_nothing_is_promotable(serve: Serve) -> None:
    async with serve() as api:
        await compared(api)
        await api.client.put(f"{URL}/policy", json=POLICY)
        body = await gates(api)
        assert (body["promotable"], body["asked"], body["passed"]) == (False, True, False)
        (failed, *_) = [gate for gate in body["gates"] if not gate["passed"]]
        assert "eval run" in failed["hint"]


async def test_evidence_that_wins_makes_a_version_promotable(serve: Serve) -> None:
    async with serve() as api:
        digests = await compared(api)
        await api.client.put(f"{URL}/policy", json=POLICY)
        await send(api, evaluated(digests))
        body = await gates(api)
        assert (body["promotable"], body["passed"]) == (True, True)
        assert (body["candidate"]["version"], body["baseline"]["version"]) == ("v2", "v1")
        (win,) = [gate for gate in body["gates"] if gate["name"].startswith("win")]
        assert win["numbers"]["items"] == ITEMS


async def test_a_newer_run_that_loses_takes_it_back(serve: Serve) -> None:
    async with serve() as api:
        digests = await compared(api)
        await api.client.put(f"{URL}/policy", json=POLICY)
        await send(api, evaluated(digests))
        await send(api, evaluated(digests, right=20, id=run_id(1), at=time.time() + 1))
        assert (await gates(api))["promotable"] is False


async def test_evidence_that_is_too_old_does_not_count(serve: Serve) -> None:
    async with serve() as api:
        digests = await compared(api)
        await api.client.put(f"{URL}/policy", json=POLICY)
        await send(api, evaluated(digests, at=time.time() - 40 * 86_400))
        body = await gates(api)
        assert body["promotable"] is False
        assert "days old" in str(body["gates"])


async def test_evidence_counts_on_the_base_that_is_served(serve: Serve) -> None:
    async with serve() as api:
        api.service.served = replace(
            api.service.served,
            identity=replace(api.service.served.identity, fingerprint="f" * 64),
        )
        served = Base(**asdict(api.service.served.identity))
        digests = await compared(api)
        await api.client.put(f"{URL}/policy", json={**POLICY, "same_base": True})
        await send(api, evaluated(digests, base=replace(served, fingerprint="0" * 64)))
        assert (await gates(api))["promotable"] is False
        await send(api, evaluated(digests, base=served, id=run_id(1)))
        assert (await gates(api))["promotable"] is True


async def test_a_soft_version_without_a_policy_is_held_against_the_default_one(
    serve: Serve,
) -> None:
    async with serve() as api:
        await compared(api)
        shown = (await api.client.get(f"{URL}/policy")).json()
        assert (shown["default"], shown["tag"]) == (True, "none")
        assert shown["policy"]["baseline"] == "v1"
        body = await gates(api)
        assert (body["default"], body["asked"], body["promotable"]) == (True, True, False)


async def test_a_text_is_promotable_without_evidence(serve: Serve) -> None:
    async with serve() as api:
        await compared(api)
        body = await gates(api, "v1")
        assert (body["asked"], body["promotable"]) == (False, True)


async def test_of_a_prompt_of_texts_alone_nothing_is_asked(serve: Serve) -> None:
    async with serve() as api:
        await api.import_text()
        body = await gates(api, "v1")
        assert (body["gates"], body["baseline"], body["promotable"]) == ([], None, True)


async def test_a_baseline_that_is_gone_fails(serve: Serve) -> None:
    async with serve() as api:
        digests = await compared(api)
        await api.alias("v1", "text")
        await api.client.put(f"{URL}/policy", json={**POLICY, "baseline": "text"})
        await send(api, evaluated(digests))
        await api.client.delete(f"{URL}/aliases/text")
        body = await gates(api)
        assert (body["promotable"], body["baseline"]) == (False, None)


async def test_a_version_may_be_named_by_an_alias(serve: Serve) -> None:
    async with serve() as api:
        await compared(api)
        await api.alias("v2", "candidate")
        assert (await gates(api, "candidate"))["candidate"]["version"] == "v2"


async def test_what_is_not_there_is_not_judged(serve: Serve) -> None:
    async with serve() as api:
        await compared(api)
        answer = await api.client.get(f"{VERSIONS}/v9/gates")
        assert (answer.status_code, code_of(answer)) == (404, "version_not_found")


async def test_judging_changes_nothing(serve: Serve) -> None:
    async with serve() as api:
        await compared(api)
        before = api.service.catalogue.revision()
        await gates(api)
        assert api.service.catalogue.revision() == before
