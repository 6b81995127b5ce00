"""A base-model update takes traffic from the versions that it may have broken, until they pass."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from runs import run_id
from server.answers import V1, VERSIONS, code_of
from server.conftest import Api
from server.test_verdicts import POLICY, compared, evaluated, send
from sqlalchemy import event

from softprompt_serve.errors import Unavailable
from softprompt_serve.registry.evidence import Evidence
from softprompt_serve.release.evidence import Base
from softprompt_serve.release.records import BaseModelIdentity
from softprompt_serve.server.healing import Healing
from softprompt_serve.telemetry.events import Applied, Operation

Serve = Callable[..., AbstractAsyncContextManager[Api]]

pytestmark = pytest.mark.anyio

URL = f"{V1}/prompts/support"
OLD = BaseModelIdentity("acme/tiny", None, "a" * 64, "b" * 64, "c" * 64)
NEW = replace(OLD, fingerprint="f" * 64)
STRICT = {**POLICY, "same_base": True}
WHY = "The vendor withdrew the old weights."


@pytest.fixture
def started(serve: Serve) -> Serve:
    """A server with gates on, as it is by default, on the old base model or another."""

    def start(
        identity: BaseModelIdentity = OLD, **settings: Any
    ) -> AbstractAsyncContextManager[Api]:
        return serve(identity=identity, **{"promotion_gates": "enforce", **settings})

    return start


async def promoted(api: Api, policy: dict[str, Any] | None = None) -> dict[str, str]:
    """v2, a tensor, has earned production from v1, a text."""
    digests = await compared(api)
    assert (await api.alias("v1")).status_code == 200
    answer = await api.client.put(f"{URL}/policy", json=policy or STRICT)
    assert answer.status_code == 200, answer.text
    await send(api, evaluated(digests, base=Base(**asdict(OLD))))
    assert (await api.alias("v2")).status_code == 200
    return digests


async def answering(api: Api, **sample: Any) -> str:
    answer = await api.client.post(f"{URL}/rollout/explain", json=sample)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["version"])


async def unverified(api: Api, version: str = "v2") -> str | None:
    found: str | None = (await api.client.get(f"{VERSIONS}/{version}")).json()["unverified"]
    return found


async def test_on_the_base_that_it_came_for_a_version_is_verified(started: Serve) -> None:
    async with started() as api:
        await promoted(api)
        assert (await unverified(api), await answering(api)) == (None, "v2")
    async with started() as api:
        assert (await unverified(api), await answering(api)) == (None, "v2")


async def test_after_a_base_update_the_hard_baseline_answers(started: Serve) -> None:
    async with started() as api:
        await promoted(api)
    async with started(NEW) as api:
        assert await answering(api) == "v1"
        why = await unverified(api)
        assert why == f"imported on weights {'a' * 12}, served are {'f' * 12}"
        prompt = (await api.client.get(URL)).json()
        assert (prompt["aliases"]["production"], prompt["stand_in"]) == ("v2", "v1")
        rollout = (await api.client.get(f"{URL}/rollout")).json()
        assert (rollout["unverified"], rollout["stand_in"]) == ({"v2": why}, "v1")


async def test_pinned_it_can_still_be_evaluated(started: Serve) -> None:
    async with started() as api:
        await promoted(api)
    async with started(NEW) as api:
        assert await answering(api, version="v2") == "v2"


async def test_the_explanation_says_why_another_answers(started: Serve) -> None:
    async with started() as api:
        await promoted(api)
    async with started(NEW) as api:
        steps = (await api.client.post(f"{URL}/rollout/explain", json={})).json()["steps"]
        assert any(
            "v2 was imported on weights" in step and "v1 stands in" in step for step in steps
        )


async def test_evidence_on_the_new_base_gives_it_its_traffic_back_for_good(started: Serve) -> None:
    async with started() as api:
        digests = await promoted(api)
    async with started(NEW) as api:
        new = Base(**asdict(NEW))
        await send(api, evaluated(digests, base=new, id=run_id(1)))
        assert (await unverified(api), await answering(api)) == (None, "v2")
        entries = (await api.client.get(f"{V1}/audit")).json()["data"]
        (accepted,) = [entry for entry in entries if entry["action"] == "version.accepted"]
        assert (accepted["subject"], accepted["detail"]["how"]) == ("v2", "evaluated")
        worse = evaluated(digests, right=10, base=new, id=run_id(2), at=time.time() + 1)
        await send(api, worse)  # what production may stay is the watch's and the rollout's business
        assert await answering(api) == "v2"
    async with started(NEW) as api:
        assert await answering(api) == "v2"
    async with started(OLD) as api:
        assert await answering(api) == "v2"


async def test_evidence_that_fails_on_the_new_base_leaves_it_with_the_baseline(
    started: Serve,
) -> None:
    async with started() as api:
        digests = await promoted(api)
    async with started(NEW) as api:
        await send(api, evaluated(digests, right=20, base=Base(**asdict(NEW)), id=run_id(1)))
        assert await answering(api) == "v1"
        answer = await api.client.post(f"{VERSIONS}/v2/verify")
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (409, "gates_failed")
        assert error["details"]["gates"]
        assert await answering(api) == "v1"


async def test_force_lets_it_through_and_is_audited(started: Serve) -> None:
    async with started() as api:
        await promoted(api)
    async with started(NEW) as api:
        body = {"force": True, "reason": WHY}
        answer = await api.client.post(f"{VERSIONS}/v2/verify", json=body, params={"actor": "ada"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["unverified"] is None
        assert await answering(api) == "v2"
        (entry,) = (await api.client.get(f"{V1}/audit", params={"limit": 1})).json()["data"]
        assert (entry["actor"], entry["action"]) == ("ada", "version.accepted")
        assert (entry["detail"]["how"], entry["detail"]["forced"]) == ("forced", WHY)


async def test_force_without_a_reason_changes_nothing(started: Serve) -> None:
    async with started() as api:
        await promoted(api)
    async with started(NEW) as api:
        answer = await api.client.post(f"{VERSIONS}/v2/verify", json={"force": True})
        assert answer.status_code == 400
        assert await answering(api) == "v1"


async def test_a_forced_promotion_verifies_too(started: Serve) -> None:
    async with started() as api:
        await promoted(api)
    async with started(NEW) as api:
        assert (await api.alias("v1")).status_code == 200
        body = {"version": "v2", "force": True, "reason": WHY}
        answer = await api.client.put(f"{URL}/aliases/production", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["unverified"] is None
        assert await answering(api) == "v2"


async def test_a_verified_version_can_be_verified_again(started: Serve) -> None:
    async with started() as api:
        await promoted(api)
        answer = await api.client.post(f"{VERSIONS}/v2/verify")
        assert (answer.status_code, answer.json()["unverified"]) == (200, None)


async def test_without_a_hard_baseline_requests_are_refused(started: Serve) -> None:
    async with started() as api:
        await api.import_soft()
        body = {"version": "v1", "force": True, "reason": WHY}
        answer = await api.client.put(f"{URL}/aliases/production", json=body)
        assert answer.status_code == 200, answer.text
    async with started(NEW) as api:
        refusal = (await api.client.post(f"{URL}/rollout/explain", json={})).json()["refusal"]
        assert (refusal["status"], refusal["code"]) == (503, "version_unverified")
        assert "imported on weights" in refusal["message"]


async def test_the_policy_may_leave_it_a_part(started: Serve) -> None:
    async with started() as api:
        await promoted(api, {**STRICT, "unverified_max_weight": 0.2})
        arms = [{"version": "v1", "weight": 50}, {"version": "v2", "weight": 50}]
        answer = await api.client.put(f"{URL}/rollout", json={"arms": arms})
        assert answer.status_code == 200, answer.text
    async with started(NEW) as api:
        found = [await answering(api, sticky_key=f"user-{number}") for number in range(200)]
        assert 15 <= found.count("v2") <= 65


async def test_a_hard_version_is_what_it_says_on_any_base(started: Serve) -> None:
    async with started() as api:
        await compared(api)
        await api.alias("v1")
    async with started(NEW) as api:
        assert (await unverified(api, "v1"), await answering(api)) == (None, "v1")


async def test_where_gates_are_off_it_is_said_and_served(started: Serve) -> None:
    async with started() as api:
        await promoted(api)
    async with started(NEW, promotion_gates="off") as api:
        assert await unverified(api) is not None
        assert await answering(api) == "v2"


async def test_a_version_for_another_base_comes_unverified_if_it_may_come(started: Serve) -> None:
    record = f'{{"base_model_fingerprint": "{"9" * 64}"}}'
    async with started() as api:
        refused = await api.import_soft(record=record)
        assert code_of(refused) == "base_model_mismatch"
    async with started(allow_base_model_mismatch=True) as api:
        await api.import_text()
        answer = await api.import_soft(record=record)
        assert (
            answer.json()["unverified"] == f"trained with weights {'9' * 12}, served are {'a' * 12}"
        )


async def test_what_can_not_be_judged_is_not_trusted_and_is_judged_later(
    started: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started() as api:
        digests = await promoted(api)
    async with started(NEW) as api:
        with monkeypatch.context() as patched:
            patched.setattr(Evidence, "weighed", _lost)
            await send(api, evaluated(digests, base=Base(**asdict(NEW)), id=run_id(1)))
            assert await answering(api) == "v1"
        await api.import_text("Something else changes.", prompt="another")
        assert await answering(api) == "v2"


def _lost(*_: Any, **__: Any) -> Any:
    msg = "gone"
    raise Unavailable(msg, code="catalogue_unavailable")


async def test_it_is_logged_once_and_told_to_who_listens(
    started: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async with started() as api:
        await promoted(api)
    caplog.clear()
    async with started(NEW) as api:
        applied: list[Applied] = []
        api.service.events.listen(Applied, applied.append)
        for number in range(3):
            await api.import_text(f"Text {number}.", prompt="another")
        said = [r for r in caplog.records if "unverified" in r.getMessage()]
        assert [record.levelno for record in said] == [logging.WARNING]
        shield = applied[-1].snapshot.prompts["support"].shield
        assert shield is not None
        assert set(shield.unverified) == {"v2"}


async def test_verifying_is_an_operation(started: Serve) -> None:
    async with started() as api:
        await promoted(api)
        told: list[Operation] = []
        api.service.events.listen(Operation, told.append)
        await api.client.post(f"{VERSIONS}/v2/verify")
        assert [(one.name, one.subject, one.error) for one in told] == [("verify", "v2", None)]


async def test_a_prompt_that_did_not_change_is_not_judged_again(started: Serve) -> None:
    async with started() as api:
        await promoted(api)
    async with started(NEW) as api:
        asked: list[str] = []
        note = partial(_note, asked)
        engine = api.service.catalogue.database._backend.reads
        event.listen(engine, "before_cursor_execute", note)
        await api.import_text("Something else changes.", prompt="another")
        event.remove(engine, "before_cursor_execute", note)
        assert asked
        assert not [statement for statement in asked if "eval_runs" in statement]


def _note(asked: list[str], *args: Any) -> None:
    asked.append(str(args[2]))


async def test_the_stand_in_is_loaded_and_ready(started: Serve, tmp_path: Path) -> None:
    async with started() as api:
        await promoted(api)
    async with started(NEW) as api:
        ready = await api.client.get(f"{V1}/readyz")
        assert ready.status_code == 200
        assert {v.version for v in api.service.traffic.prompts["support"].serving()} == {"v1"}


async def test_a_version_that_is_healed_is_told_of_as_requests_meet_it(started: Serve) -> None:
    async with started() as api:
        digests = await promoted(api)
    async with started(NEW) as api:
        applied: list[Applied] = []
        api.service.events.listen(Applied, applied.append)
        api.workers.lose(digests["v2"])
        api.service.keeping.unloadable["support@v2"] = "The engine was down."
        await Healing(api.service).tick()
        assert [event.snapshot is api.service.traffic for event in applied] == [True]
        assert applied[0].snapshot.prompts["support"].shield is not None
