"""The rollout routes over HTTP: what they answer, and that what is refused changes nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from server.answers import V1, VERSIONS, code_of

from softprompt_serve.errors import SoftpromptError, Unavailable
from softprompt_serve.registry.replicas import Serving
from softprompt_serve.registry.tallies import Tally
from softprompt_serve.router.ask import Ask
from softprompt_serve.router.choose import choose

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    Serve = Callable[..., AbstractAsyncContextManager[Any]]

pytestmark = pytest.mark.anyio

ROLLOUT = f"{V1}/prompts/support/rollout"
STEPS = [{"weight": 1, "min_requests": 10}, {"weight": 50}]
REGULATED = {"name": "regulated", "match": {"cohort": ["regulated"]}, "version": "v1"}


def arms(**weights: int) -> dict[str, Any]:
    return {"arms": [{"version": name, "weight": weight} for name, weight in weights.items()]}


class Caller:
    """Calls the routes of one prompt's rollout."""

    def __init__(self, api: Any) -> None:
        self.api = api
        self.client: httpx.AsyncClient = api.client

    async def get(self) -> httpx.Response:
        return await self.client.get(ROLLOUT)

    async def put(self, document: Any, match: str | None = None) -> httpx.Response:
        return await self.client.put(ROLLOUT, json=document, headers=tied(match))

    async def weights(self, weights: Any, match: str | None = None) -> httpx.Response:
        return await self.client.put(f"{ROLLOUT}/weights", json=weights, headers=tied(match))

    async def post(self, verb: str, body: Any = None, match: str | None = None) -> httpx.Response:
        sent = {} if body is None else {"json": body}
        return await self.client.post(f"{ROLLOUT}/{verb}", headers=tied(match), **sent)

    async def until_applied(self) -> dict[str, Any]:
        async with asyncio.timeout(5.0):
            while not (seen := (await self.get()).json())["applied"]:  # noqa: ASYNC110 - over HTTP
                await asyncio.sleep(0.01)
        return seen


def tied(match: str | None) -> dict[str, str]:
    return {} if match is None else {"if-match": match}


@pytest.fixture
async def calls(serve: Serve) -> AsyncIterator[Caller]:
    """A server with v1 (production) and v2, v3, all soft and resident; its controller rests."""
    async with serve(
        cohorts=("regulated",),
        rule_headers=("x-tier",),
        heartbeat_seconds=0.05,
        controller_seconds=60.0,
        controller_lease_seconds=120.0,
    ) as api:
        for seed in range(3):
            await api.import_soft(2, seed)
        await api.alias("v1")
        yield Caller(api)


# --- reading


async def test_without_a_rollout_production_has_everything(calls: Caller) -> None:
    answer = await calls.get()
    assert (answer.status_code, answer.headers["etag"]) == (200, '"0"')
    expected = {
        "prompt": "support",
        "generation": 0,
        "state": "none",
        "spec": None,
        "weights": {"v1": 100},
        "production": "v1",
        "candidate": None,
        "step": None,
        "findings": None,
    }
    assert expected.items() <= answer.json().items()


async def test_an_unknown_prompt_has_no_rollout(calls: Caller) -> None:
    answer = await calls.client.get(f"{V1}/prompts/nobody/rollout")
    assert (answer.status_code, code_of(answer)) == (404, "prompt_not_found")


async def test_a_rollout_is_no_business_of_strangers(serve: Serve) -> None:
    async with serve(token=None) as api:
        answers = [await api.client.get(ROLLOUT), await api.client.put(ROLLOUT, json=arms(v1=1))]
        assert [answer.status_code for answer in answers] == [401, 401]


async def test_a_rollout_is_applied_once_the_replica_has_said_so(calls: Caller) -> None:
    await calls.put(arms(v1=90, v2=10))
    seen = await calls.until_applied()
    (replica,) = seen["observed"]
    assert replica["replica"] == calls.api.service.replica
    assert (replica["generation"], replica["applied"]) == (1, True)
    assert {"v1", "v2"} <= set(replica["resident"])
    assert replica["since"].endswith("Z")
    assert replica["seen_seconds_ago"] >= 0


@pytest.mark.parametrize(
    "serving", [Serving(0, ("v1", "v2")), Serving(1, ("v1",)), Serving(2, ("v1", "v2"))]
)
async def test_a_replica_that_is_not_there_yet_holds_up_applied(
    calls: Caller, serving: Serving
) -> None:
    await calls.put(arms(v1=90, v2=10))
    await calls.until_applied()
    replicas = calls.api.service.replicas
    await asyncio.to_thread(replicas.beat, "other", "another", 1, {"support": serving})
    seen = (await calls.get()).json()
    assert (seen["applied"], len(seen["observed"])) == (False, 2)
    good = {"support": Serving(1, ("v1", "v2"))}
    await asyncio.to_thread(replicas.beat, "other", "another", 1, good)
    assert (await calls.get()).json()["applied"]


async def test_a_replica_that_never_heard_of_the_rollout_holds_up_applied(calls: Caller) -> None:
    await calls.put(arms(v1=1))
    await asyncio.to_thread(calls.api.service.replicas.beat, "other", "another", 1, {})
    seen = (await calls.get()).json()
    assert [r["generation"] for r in seen["observed"] if r["replica"] == "other"] == [0]
    assert not seen["applied"]


async def test_without_the_catalogue_the_rollout_is_still_shown_as_it_was_last_seen(
    calls: Caller, tmp_path: Path
) -> None:
    await calls.put(arms(v1=90, v2=10))
    (tmp_path / "catalogue.db").unlink()
    answer = await calls.get()
    seen = answer.json()
    assert (answer.status_code, answer.headers["etag"]) == (200, '"1"')
    assert (seen["weights"], seen["production"]) == ({"v1": 90, "v2": 10}, "v1")
    assert (seen["observed"], seen["applied"]) == ([], False)
    assert "catalogue" in seen["note"]


async def test_without_the_catalogue_no_change_is_acknowledged(
    calls: Caller, tmp_path: Path
) -> None:
    (tmp_path / "catalogue.db").unlink()
    changes = [
        await calls.put(arms(v1=1)),
        await calls.weights({"v1": 1}),
        await calls.client.delete(ROLLOUT),
        *[await calls.post(verb) for verb in ("promote", "rollback", "pause", "resume")],
    ]
    for answer in changes:
        assert (answer.status_code, code_of(answer)) == (503, "catalogue_unavailable")


# --- the document


async def test_a_document_is_answered_as_it_was_understood(calls: Caller) -> None:
    await calls.api.alias("v2", "candidate")
    answer = await calls.put(arms(v1=99, candidate=1) | {"rules": [REGULATED]})
    body = answer.json()
    assert (answer.status_code, answer.headers["etag"]) == (200, '"1"')
    assert body["spec"]["arms"] == [
        {"version": "v1", "weight": 99, "alias": None},
        {"version": "v2", "weight": 1, "alias": "candidate"},
    ]
    assert (body["generation"], body["epoch"], body["state"]) == (1, 1, "static")
    assert (body["weights"], body["candidate"]) == ({"v1": 99, "v2": 1}, "v2")


async def test_requests_follow_a_document_when_it_is_answered(calls: Caller) -> None:
    await calls.put(arms(v2=1))
    assert choose(calls.api.service.snapshot, "support").version.version == "v2"


async def test_what_is_shown_can_be_put_back(calls: Caller) -> None:
    shown = (await calls.put(arms(v1=9, v2=1) | {"rules": [REGULATED]})).json()["spec"]
    answer = await calls.put(shown, '"1"')
    assert (answer.status_code, answer.headers["etag"]) == (200, '"1"')


@pytest.mark.parametrize(
    ("document", "param"),
    [
        ({}, "arms"),
        (arms(v1=-1), "arms.0.weight"),
        (arms(v1=1_000_001), "arms.0.weight"),
        ({"arms": [{"version": "v1", "weight": "1"}]}, "arms.0.weight"),
        (arms(v1=1) | {"colour": "blue"}, "colour"),
        (arms(v1=1) | {"rules": [{"name": "r", "match": {}, "version": "v1"}]}, "rules.0.match"),
        (arms(v1=1) | {"shadow": {"version": "v1", "sample": 2}}, "shadow.sample"),
        ([], None),
        (None, None),
    ],
)
async def test_a_document_of_the_wrong_shape_is_unprocessable(
    calls: Caller, document: Any, param: str | None
) -> None:
    answer = await calls.put(document)
    assert (answer.status_code, code_of(answer)) == (422, "invalid_rollout")
    assert answer.json()["error"]["param"] == param
    assert (await calls.get()).json()["generation"] == 0


@pytest.mark.parametrize(
    ("document", "code", "param"),
    [
        (arms(v1=1, v9=1), "rollout_unknown_version", "arms.1.version"),
        (arms(v1=0), "rollout_no_weight", "arms"),
        (arms(v1=1, production=1), "rollout_duplicate_arm", "arms.1.version"),
        (
            arms(v1=1) | {"rules": [REGULATED | {"match": {"cohort": ["poor"]}}]},
            "unknown_cohort",
            "rules.0.match.cohort",
        ),
        (arms(v1=1) | {"steps": STEPS}, "steps_need_baseline", "arms"),
    ],
)
async def test_a_document_that_means_nothing_is_unprocessable(
    calls: Caller, document: Any, code: str, param: str
) -> None:
    answer = await calls.put(document)
    assert (answer.status_code, code_of(answer)) == (422, code)
    assert answer.json()["error"]["param"] == param
    assert (await calls.get()).json()["generation"] == 0


async def test_a_body_that_is_no_json_is_a_bad_request(calls: Caller) -> None:
    headers = {"content-type": "application/json"}
    answer = await calls.client.put(ROLLOUT, content=b"{", headers=headers)
    assert (answer.status_code, code_of(answer)) == (400, "invalid_body")


async def test_a_name_that_is_none_is_a_bad_request(calls: Caller) -> None:
    answer = await calls.client.put(f"{V1}/prompts/Sup!/rollout", json=arms(v1=1))
    assert (answer.status_code, code_of(answer)) == (400, "invalid_request")


async def test_the_audit_knows_who_changed_a_rollout(calls: Caller) -> None:
    await calls.client.put(ROLLOUT, params={"actor": "ada"}, json=arms(v1=1))
    entry = (await calls.client.get(f"{V1}/audit")).json()["data"][0]
    assert (entry["actor"], entry["action"], entry["prompt"]) == ("ada", "rollout.set", "support")
    assert (await calls.get()).json()["updated_by"] == "ada"


async def test_a_removed_rollout_leaves_the_traffic_to_production(calls: Caller) -> None:
    await calls.put(arms(v2=1))
    answer = await calls.client.delete(ROLLOUT, headers=tied('"1"'))
    body = answer.json()
    assert (answer.headers["etag"], body["state"], body["spec"]) == ('"2"', "none", None)
    assert body["weights"] == {"v1": 100}
    assert choose(calls.api.service.snapshot, "support").version.version == "v1"
    assert (await calls.until_applied())["generation"] == 2


async def test_there_may_be_no_rollout_to_remove(calls: Caller) -> None:
    answer = await calls.client.delete(ROLLOUT)
    assert (answer.status_code, answer.headers["etag"]) == (200, '"0"')


# --- generations


@pytest.mark.parametrize("match", ['"1"', "1", 'W/"1"', "*", ' "1" '])
async def test_a_generation_can_be_written_in_many_ways(calls: Caller, match: str) -> None:
    await calls.put(arms(v1=1))
    answer = await calls.put(arms(v2=1), match)
    assert (answer.status_code, answer.headers["etag"]) == (200, '"2"')


@pytest.mark.parametrize("match", ["", "one", '"1', "-1", '"1", "2"', "1.0", '""', "1" * 30])
async def test_an_if_match_that_is_no_generation_is_a_bad_request(
    calls: Caller, match: str
) -> None:
    answer = await calls.put(arms(v1=1), match)
    assert (answer.status_code, code_of(answer)) == (400, "invalid_if_match")
    assert answer.json()["error"]["param"] == "If-Match"


async def test_a_stale_generation_is_refused_and_both_are_named(calls: Caller) -> None:
    await calls.put(arms(v1=1))
    answer = await calls.put(arms(v2=1), '"7"')
    assert (answer.status_code, code_of(answer)) == (412, "stale_generation")
    message = answer.json()["error"]["message"]
    assert "generation 1" in message
    assert "7" in message


async def test_every_change_honours_if_match(calls: Caller) -> None:
    await calls.put(arms(v1=100, v2=0) | {"steps": STEPS})
    stale = '"7"'
    answers = [
        await calls.weights({"v1": 1}, stale),
        await calls.client.delete(ROLLOUT, headers=tied(stale)),
        *[await calls.post(v, match=stale) for v in ("promote", "rollback", "pause", "resume")],
    ]
    assert [answer.status_code for answer in answers] == [412] * 6
    assert (await calls.get()).headers["etag"] == '"1"'


async def test_of_many_writers_one_wins_each_generation(calls: Caller) -> None:
    for seen in range(5):
        writes = [calls.weights({"v1": 10, "v2": 10 * seen + n + 1}, f'"{seen}"') for n in range(4)]
        statuses = sorted(answer.status_code for answer in await asyncio.gather(*writes))
        assert statuses == [200, 412, 412, 412]
    assert (await calls.get()).headers["etag"] == '"5"'


# --- weights


async def test_weights_make_a_rollout_and_move_it(calls: Caller) -> None:
    assert (await calls.weights({"v1": 90, "v2": 10})).json()["weights"] == {"v1": 90, "v2": 10}
    moved = (await calls.weights({"v1": 50, "v2": 50}, '"1"')).json()
    assert (moved["generation"], moved["epoch"], moved["weights"]) == (2, 1, {"v1": 50, "v2": 50})


@pytest.mark.parametrize(
    ("weights", "code", "param"),
    [
        ({}, "invalid_rollout", None),
        ({"v1": 1.5}, "invalid_rollout", "v1"),
        ({"v1": 1_000_001}, "invalid_rollout", "v1"),
        ({"V 1": 1}, "invalid_rollout", "V 1"),
        ({"v1": 1, "v9": 1}, "rollout_unknown_version", "v9"),
        ({"v1": 1, "production": 1}, "rollout_duplicate_arm", "production"),
        ({"v1": 0}, "rollout_no_weight", None),
    ],
)
async def test_a_bad_weight_is_named_by_its_key(
    calls: Caller, weights: Any, code: str, param: str | None
) -> None:
    answer = await calls.weights(weights)
    assert (answer.status_code, code_of(answer)) == (422, code)
    assert answer.json()["error"]["param"] == param


# --- promote, rollback, pause, resume


async def test_the_candidate_is_promoted_without_being_named(calls: Caller) -> None:
    await calls.put(arms(v1=90, v2=10))
    body = (await calls.post("promote")).json()
    assert (body["state"], body["weights"]) == ("promoted", {"v1": 0, "v2": 100})
    assert (body["production"], body["candidate"]) == ("v2", None)
    prompt = (await calls.client.get(f"{V1}/prompts/support")).json()
    assert prompt["aliases"] == {"production": "v2"}


async def test_a_version_is_promoted_by_name_and_for_a_reason(calls: Caller) -> None:
    body = (await calls.post("promote", {"version": "v3", "reason": "It is better."})).json()
    assert (body["production"], body["reason"]) == ("v3", "It is better.")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"version": "v9"}, 422, "rollout_unknown_version"),
        ({"version": 3}, 422, "invalid_rollout"),
        ({"versoin": "v2"}, 422, "invalid_rollout"),
        ({}, 409, "no_candidate"),
        (None, 409, "no_candidate"),
    ],
)
async def test_what_can_not_be_promoted_is_refused(
    calls: Caller, body: Any, status: int, code: str
) -> None:
    answer = await calls.post("promote", body)
    assert (answer.status_code, code_of(answer)) == (status, code)


async def test_a_rollback_needs_no_argument_and_can_be_sent_twice(calls: Caller) -> None:
    await calls.put(arms(v1=90, v2=10))
    await calls.post("promote")
    first = await calls.post("rollback")
    again = await calls.post("rollback")
    assert first.json()["state"] == again.json()["state"] == "rolled_back"
    assert first.headers["etag"] == again.headers["etag"] == '"3"'
    assert again.json()["production"] == "v1"
    assert choose(calls.api.service.snapshot, "support").version.version == "v1"


async def test_there_may_be_nothing_to_roll_back(calls: Caller) -> None:
    answer = await calls.post("rollback")
    assert (answer.status_code, code_of(answer)) == (409, "nothing_to_roll_back")


async def test_steps_can_be_paused_and_resumed(calls: Caller) -> None:
    await calls.put(arms(v1=100, v2=0) | {"steps": STEPS})
    paused = (await calls.post("pause", {"reason": "Lunch."})).json()
    assert (paused["state"], paused["reason"]) == ("paused", "Lunch.")
    assert (await calls.post("resume")).json()["state"] == "pending"


async def test_without_steps_there_is_nothing_to_pause(calls: Caller) -> None:
    await calls.put(arms(v1=1))
    answer = await calls.post("pause")
    assert (answer.status_code, code_of(answer)) == (409, "rollout_has_no_steps")


async def test_weights_can_not_be_moved_under_a_progression(calls: Caller) -> None:
    await calls.put(arms(v1=100, v2=0) | {"steps": STEPS})
    answer = await calls.weights({"v1": 1, "v2": 1})
    assert (answer.status_code, code_of(answer)) == (409, "rollout_progressing")


async def test_the_present_step_is_shown(calls: Caller) -> None:
    await calls.put(arms(v1=100, v2=0) | {"steps": STEPS})
    rollouts = calls.api.service.rollouts
    rollouts.advance("support", if_match=1, step=0, base=0, reason="begin", actor="controller")
    seen = (await calls.get()).json()
    assert (seen["state"], seen["weights"]) == ("progressing", {"v1": 99, "v2": 1})
    step = seen["step"]
    assert step.pop("since_seconds") >= 0
    assert step == {
        "index": 0,
        "of": 2,
        "weight": 1,
        "requests": 0,
        "min_requests": 10,
        "min_duration_seconds": 60.0,
    }


async def test_the_candidates_answers_in_this_step_are_counted_over_all_replicas(
    calls: Caller,
) -> None:
    await calls.put(arms(v1=100, v2=0) | {"steps": STEPS})
    service = calls.api.service
    service.rollouts.advance("support", if_match=1, step=0, base=5, reason="", actor="controller")
    service.tallies.write(
        Tally("support", 1, replica, "requests", version, cohort, {"requests": count})
        for replica, version, cohort, count in (
            ("one", "v2", "default", 4),
            ("two", "v2", "default", 3),
            ("two", "v2", "other", 2),
            ("two", "v1", "default", 100),
        )
    )
    assert (await calls.get()).json()["step"]["requests"] == 4


async def test_findings_are_shown(calls: Caller) -> None:
    await calls.put(arms(v1=90, v2=10))
    calls.api.service.rollouts.note("support", 1, {"gates": [], "memory": {"trials": {}}})
    seen = (await calls.get()).json()
    assert seen["findings"] == {"gates": []}
    assert seen["findings_seconds_ago"] >= 0


async def test_the_history_is_told_newest_first(calls: Caller) -> None:
    await calls.put(arms(v1=90, v2=10))
    await calls.post("promote")
    told = (await calls.client.get(f"{ROLLOUT}/history")).json()["data"]
    assert [(t["generation"], t["action"], t["production"]) for t in told] == [
        (2, "promoted", "v2"),
        (1, "set", "v1"),
        (0, "none", "v1"),
    ]
    short = (await calls.client.get(f"{ROLLOUT}/history", params={"limit": 1})).json()["data"]
    assert len(short) == 1


async def test_an_unknown_prompt_has_no_history(calls: Caller) -> None:
    answer = await calls.client.get(f"{V1}/prompts/nobody/rollout/history")
    assert (answer.status_code, code_of(answer)) == (404, "prompt_not_found")


# --- loaded before it is visible


async def lose(calls: Caller, version: str) -> None:
    found = calls.api.service.find_version("support", version)
    calls.api.workers.lose(found.digest)
    await calls.api.service.residency.refresh()
    assert not calls.api.service.residency.is_resident(found)


@pytest.mark.parametrize("change", ["put", "weights", "promote", "rollback", "shadow", "rule"])
async def test_what_gets_traffic_is_loaded_first(calls: Caller, change: str) -> None:
    if change == "rollback":
        await calls.put(arms(v3=1))
        await calls.put(arms(v1=90, v2=10))
    await lose(calls, "v3")
    made = {
        "put": lambda: calls.put(arms(v1=90, v3=10)),
        "weights": lambda: calls.weights({"v1": 90, "v3": 10}),
        "promote": lambda: calls.post("promote", {"version": "v3"}),
        "rollback": lambda: calls.post("rollback"),
        "shadow": lambda: calls.put(arms(v1=1) | {"shadow": {"version": "v3", "sample": 1}}),
        "rule": lambda: calls.put(arms(v1=1) | {"rules": [REGULATED | {"version": "v3"}]}),
    }[change]
    assert (await made()).status_code == 200
    service = calls.api.service
    assert service.residency.is_resident(service.find_version("support", "v3"))


@pytest.mark.parametrize("change", ["put", "weights", "promote"])
async def test_what_can_not_be_loaded_gets_no_traffic(calls: Caller, change: str) -> None:
    await lose(calls, "v3")
    calls.api.workers.failure = Unavailable("The engine is down.", code="workers_failed")
    made = {
        "put": lambda: calls.put(arms(v1=90, v3=10)),
        "weights": lambda: calls.weights({"v1": 90, "v3": 10}),
        "promote": lambda: calls.post("promote", {"version": "v3"}),
    }[change]
    answer = await made()
    assert (answer.status_code, code_of(answer)) == (503, "workers_failed")
    seen = (await calls.get()).json()
    assert (seen["generation"], seen["production"]) == (0, "v1")


async def test_a_change_that_is_refused_loads_nothing(calls: Caller) -> None:
    await lose(calls, "v3")
    before = list(calls.api.workers.calls)
    assert (await calls.put(arms(v1=1, v3=1), '"9"')).status_code == 412
    assert (await calls.put(arms(v3=1, v9=1))).status_code == 422
    assert calls.api.workers.calls == before


async def test_pausing_needs_nobody_to_be_loaded(calls: Caller) -> None:
    await calls.put(arms(v1=100, v2=0) | {"steps": STEPS})
    await lose(calls, "v2")
    calls.api.workers.failure = Unavailable("The engine is down.", code="workers_failed")
    assert (await calls.post("pause")).status_code == 200


# --- guards


async def test_a_version_in_a_rollout_can_not_be_taken_away(calls: Caller) -> None:
    await calls.put(arms(v1=90, v2=10))
    removed = await calls.client.delete(f"{VERSIONS}/v2")
    unloaded = await calls.client.put(f"{VERSIONS}/v2/residency", json={"resident": False})
    for answer in (removed, unloaded):
        assert (answer.status_code, code_of(answer)) == (409, "version_in_rollout")


async def test_production_can_not_move_while_arms_are_compared(calls: Caller) -> None:
    await calls.put(arms(v1=90, v2=10))
    answer = await calls.api.alias("v2")
    assert (answer.status_code, code_of(answer)) == (409, "rollout_active")


async def test_moving_production_of_a_settled_rollout_moves_its_traffic(calls: Caller) -> None:
    await calls.post("promote", {"version": "v2"})
    assert (await calls.api.alias("v3")).status_code == 200
    seen = (await calls.get()).json()
    assert (seen["generation"], seen["state"], seen["production"]) == (2, "promoted", "v3")
    assert seen["weights"] == {"v2": 0, "v3": 100}


# --- explain


async def explained(calls: Caller, **sample: Any) -> dict[str, Any]:
    answer = await calls.post("explain", sample)
    assert answer.status_code == 200
    body: dict[str, Any] = answer.json()
    return body


async def test_a_split_is_explained_for_its_key(calls: Caller) -> None:
    await calls.put(arms(v1=50, v2=50))
    for key in ("ada", "bob", "eve", "joe"):
        told = await explained(calls, sticky_key=key)
        chosen = choose(calls.api.service.snapshot, "support", Ask(key=key))
        assert (told["version"], told["reason"]) == (chosen.version.version, "split")
        assert told["digest"] == chosen.version.digest
        assert (told["generation"], told["resident"], told["rule"]) == (1, True, None)
        assert told["steps"][-1] == f"answered by {told['version']}"


@pytest.mark.parametrize(
    ("sample", "version", "reason", "rule"),
    [
        ({"version": "v3"}, "v3", "pinned", None),
        ({"version": "production"}, "v1", "alias", None),
        ({"cohort": "regulated"}, "v1", "rule", "regulated"),
        ({"headers": {"X-Tier": "gold"}}, "v3", "rule", "gold"),
        ({"tools": True, "visible_tokens": 10}, "v3", "rule", "tools"),
        ({"headers": {"x-other": "gold"}}, "v2", "split", None),
        ({}, "v2", "split", None),
    ],
)
async def test_each_way_to_a_version_is_explained(
    calls: Caller, sample: Any, version: str, reason: str, rule: str | None
) -> None:
    gold = {"name": "gold", "match": {"headers": {"X-Tier": ["gold"]}}, "version": "v3"}
    tools = {
        "name": "tools",
        "match": {"tools": True, "visible_tokens": {"max": 10}},
        "version": "v3",
    }
    await calls.put(arms(v2=1) | {"rules": [REGULATED, gold, tools]})
    told = await explained(calls, **sample)
    assert (told["version"], told["reason"], told["rule"]) == (version, reason, rule)


async def test_labels_are_explained_as_requests_get_them(calls: Caller) -> None:
    told = await explained(calls, cohort="undeclared", route="undeclared")
    assert (told["cohort"], told["route"]) == ("other", "other")
    assert (await explained(calls, visible_tokens=100_000))["cohort"] == "long_context"


async def test_a_fallback_is_explained(calls: Caller) -> None:
    await calls.put(arms(v1=50, v2=50))
    keys = [f"user-{n}" for n in range(20)]
    moved = [key for key in keys if (await explained(calls, sticky_key=key))["version"] == "v2"]
    await lose(calls, "v2")
    told = await explained(calls, sticky_key=moved[0])
    assert (told["version"], told["reason"], told["passed_over"]) == ("v1", "fallback", "v2")


@pytest.mark.parametrize(
    ("sample", "status", "code"),
    [
        ({"version": "v9"}, 404, "version_not_found"),
        ({"version": "v3"}, 503, "version_unloaded"),
        ({}, 404, "no_production_version"),
    ],
)
async def test_what_would_be_refused_is_explained_too(
    calls: Caller, sample: Any, status: int, code: str
) -> None:
    unload = {"resident": False}
    assert (await calls.client.put(f"{VERSIONS}/v3/residency", json=unload)).is_success
    if not sample:
        assert (await calls.client.delete(f"{V1}/prompts/support/aliases/production")).is_success
    told = await explained(calls, **sample)
    refusal = told.pop("refusal")
    with pytest.raises(SoftpromptError) as raised:
        choose(calls.api.service.snapshot, "support", Ask(pinned=sample.get("version")))
    assert refusal == {"status": status, "code": code, "message": raised.value.message}
    assert told["steps"][-1].startswith("refused: ")
    assert (told["cohort"], told["generation"], told["resident"]) == ("default", 0, False)
    assert told["version"] is told["digest"] is told["reason"] is told["arm"] is None


async def test_of_a_prompt_that_is_not_there_nothing_is_explained(calls: Caller) -> None:
    answer = await calls.client.post(f"{V1}/prompts/nobody/rollout/explain")
    assert (answer.status_code, code_of(answer)) == (404, "prompt_not_found")


async def test_no_sample_at_all_is_some_request(calls: Caller) -> None:
    answer = await calls.post("explain")
    assert (answer.status_code, answer.json()["reason"]) == (200, "production")


# --- a whole canary


async def test_an_outside_controller_walks_a_version_to_everything(calls: Caller) -> None:
    etag = (await calls.get()).headers["etag"]
    for share in (1, 10, 50, 100):
        weights = {"v1": 100 - share, "v2": share}
        answer = await calls.weights(weights, etag)
        # The same call again, as if the answer had been lost: nothing moves twice.
        assert (await calls.weights(weights, etag)).status_code == 412
        etag = answer.headers["etag"]
        assert (await calls.weights(weights, etag)).headers["etag"] == etag
        assert (await calls.until_applied())["weights"] == weights
    done = (await calls.post("promote", {"version": "v2"}, etag)).json()
    assert (done["state"], done["production"], done["generation"]) == ("promoted", "v2", 5)
