"""Flagger's webhooks over HTTP: what each answers, and that a repeated one changes nothing."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
from server.answers import V1, code_of
from server.rollouts import ROLLOUT, applied, before_release

from softprompt_serve.testing import ADMIN_TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    import httpx

    Serve = Callable[..., AbstractAsyncContextManager[Any]]

pytestmark = pytest.mark.anyio

QUESTIONS = (
    "confirm-rollout",
    "pre-rollout",
    "rollout",
    "confirm-traffic-increase",
    "confirm-promotion",
    "rollback",
)
STEPS = [{"weight": 10, "min_requests": 1}]


async def ask(
    api: Any, hook: str, *, phase: str = "Progressing", **metadata: str | None
) -> httpx.Response:
    said = {"prompt": "support", "version": "v4"} | metadata
    body = {
        "name": "support-release",
        "namespace": "softprompt",
        "phase": phase,
        "checksum": "85d557f47b",
        "metadata": {name: text for name, text in said.items() if text is not None},
    }
    answer: httpx.Response = await api.client.post(f"{V1}/hooks/flagger/{hook}", json=body)
    return answer


async def yes(api: Any, hook: str, **said: str | None) -> dict[str, Any]:
    answer = await ask(api, hook, **said)
    assert answer.status_code == 200, answer.text  # Flagger's own limit is 202
    return dict(answer.json())


async def no(api: Any, hook: str, **said: str | None) -> tuple[str, str]:
    answer = await ask(api, hook, **said)
    assert answer.status_code == 409, answer.text
    return code_of(answer), answer.json()["error"]["message"]


async def put(api: Any, **document: Any) -> None:
    arms = [{"version": "production", "weight": 90}, {"version": "v4", "weight": 10}]
    answer = await api.client.put(ROLLOUT, json={"arms": arms, **document})
    assert answer.status_code == 200, answer.text
    await applied(api)


async def noted(api: Any, *broken: str, candidate: str = "v4") -> None:
    """What the controller found of the present comparison, besides a gate that holds."""
    gates = [{"gate": gate, "cohort": None, "broken": True} for gate in broken]
    gates += [{"gate": "ttft p99 max 1", "cohort": "default", "broken": False}]
    rollouts = api.service.rollouts
    epoch = rollouts.get("support").epoch
    rollouts.note("support", epoch, {"candidate": candidate, "gates": gates})


async def test_a_release_may_begin_when_the_candidate_is_there(serve: Serve) -> None:
    async with serve() as api:
        await before_release(api)
        for hook in ("confirm-rollout", "pre-rollout"):
            assert await yes(api, hook) == {
                "hook": hook,
                "outcome": "confirmed",
                "reason": "v4 is resident; production is v2.",
                "prompt": "support",
                "version": "v4",
                "generation": 0,
            }


async def test_an_alias_may_stand_for_the_candidate(serve: Serve) -> None:
    async with serve() as api:
        await before_release(api)
        await api.alias("v4", "candidate")
        assert (await yes(api, "confirm-rollout", version="candidate"))["version"] == "v4"


@pytest.mark.parametrize("hook", ["confirm-rollout", "pre-rollout"])
async def test_a_candidate_that_is_not_resident_is_waited_for(serve: Serve, hook: str) -> None:
    async with serve() as api:
        await before_release(api)
        await api.client.put(
            f"{V1}/prompts/support/versions/v4/residency", json={"resident": False}
        )
        assert await no(api, hook) == ("hook_not_ready", "support@v4 is not resident here.")


@pytest.mark.parametrize("hook", ["confirm-rollout", "pre-rollout"])
async def test_without_a_production_there_is_nothing_to_follow(serve: Serve, hook: str) -> None:
    async with serve() as api:
        await api.import_soft(2, version="v4")
        code, reason = await no(api, hook)
        assert (code, "no production" in reason) == ("hook_not_ready", True)


async def test_what_is_production_already_is_not_released_again(serve: Serve) -> None:
    async with serve() as api:
        await before_release(api)
        await api.alias("v4")
        code, reason = await no(api, "confirm-rollout")
        assert (code, "production already" in reason) == ("hook_not_ready", True)
        await yes(api, "pre-rollout")  # else a release that ends while it begins would fail


@pytest.mark.parametrize("hook", ["rollout", "confirm-traffic-increase"])
async def test_a_rollout_that_every_replica_follows_is_well(serve: Serve, hook: str) -> None:
    async with serve() as api:
        await before_release(api)
        await put(api)
        assert (await yes(api, hook))["reason"] == "Generation 1 is applied; static."


@pytest.mark.parametrize("hook", ["rollout", "confirm-traffic-increase", "confirm-promotion"])
async def test_without_a_rollout_nothing_is_well(serve: Serve, hook: str) -> None:
    async with serve() as api:
        await before_release(api)
        assert await no(api, hook) == ("hook_not_ready", "support has no rollout.")


@pytest.mark.parametrize("hook", ["rollout", "confirm-traffic-increase", "confirm-promotion"])
async def test_a_replica_that_lags_is_named(serve: Serve, hook: str) -> None:
    async with serve() as api:
        await before_release(api)
        await put(api)
        api.service.replicas.beat("other", "other-host/7", 1, {})
        code, reason = await no(api, hook)
        assert (code, "other-host/7" in reason) == ("hook_not_ready", True)


@pytest.mark.parametrize("hook", ["rollout", "confirm-traffic-increase", "confirm-promotion"])
async def test_a_pause_holds_flagger_too(serve: Serve, hook: str) -> None:
    async with serve() as api:
        await before_release(api)
        await put(api, steps=STEPS)
        await api.client.post(f"{ROLLOUT}/pause", json={"reason": "Lunch."})
        await applied(api)
        assert await no(api, hook) == (
            "hook_not_ready",
            "The rollout of support is paused: Lunch.",
        )


@pytest.mark.parametrize("hook", ["rollout", "confirm-traffic-increase", "confirm-promotion"])
async def test_a_broken_gate_is_named(serve: Serve, hook: str) -> None:
    async with serve() as api:
        await before_release(api)
        await put(api)
        await noted(api, "error_rate max 0.01")
        assert await no(api, hook) == ("hook_gate_broken", "v4 breaks `error_rate max 0.01`.")


async def test_a_promotion_is_confirmed_for_an_arm(serve: Serve) -> None:
    async with serve() as api:
        await before_release(api)
        await put(api)
        await yes(api, "confirm-promotion")


async def test_a_promotion_is_not_confirmed_for_a_stranger(serve: Serve) -> None:
    async with serve() as api:
        await before_release(api)
        await api.import_soft(3, version="v5")
        await put(api)
        code, reason = await no(api, "confirm-promotion", version="v5")
        assert (code, "arms are v2, v4" in reason) == ("hook_not_ready", True)


async def test_a_promotion_waits_for_our_own_steps(serve: Serve) -> None:
    async with serve() as api:
        await before_release(api)
        await put(api, steps=STEPS)
        assert "before its first step" in (await no(api, "confirm-promotion"))[1]
        api.service.rollouts.advance(
            "support", if_match=1, step=0, base=0, reason="First.", actor="test"
        )
        await api.service.feed.refresh()
        await applied(api)
        assert "in step 1 of 1" in (await no(api, "confirm-promotion"))[1]
        await api.client.post(f"{ROLLOUT}/promote")
        await applied(api)
        await yes(api, "confirm-promotion")


async def test_nothing_is_rolled_back_without_a_reason(serve: Serve) -> None:
    async with serve() as api:
        await before_release(api)
        assert (await no(api, "rollback"))[0] == "hook_no_rollback"
        await put(api)
        assert (await no(api, "rollback"))[0] == "hook_no_rollback"


async def test_flagger_follows_our_rollback(serve: Serve) -> None:
    async with serve() as api:
        await before_release(api)
        await put(api)
        await api.client.post(f"{ROLLOUT}/rollback", json={"reason": "Too slow."})
        assert "Too slow." in (await yes(api, "rollback"))["reason"]
        assert (await no(api, "rollout"))[0] == "hook_not_ready"


async def test_a_rollback_of_another_version_is_not_the_candidates(serve: Serve) -> None:
    async with serve() as api:
        await before_release(api)
        await api.import_soft(3, version="v5")
        await put(api)
        await api.client.post(f"{ROLLOUT}/rollback")
        assert (await no(api, "rollback", version="v5"))[0] == "hook_no_rollback"
        assert (await no(api, "rollback", version="v2"))[0] == "hook_no_rollback"


async def test_flagger_rolls_back_for_a_broken_gate(serve: Serve) -> None:
    async with serve() as api:
        await before_release(api)
        await put(api)
        await noted(api, "error_rate max 0.01")
        assert "error_rate" in (await yes(api, "rollback"))["reason"]


async def test_a_gate_that_another_candidate_broke_is_not_held_against_this_one(
    serve: Serve,
) -> None:
    async with serve() as api:
        await before_release(api)
        await put(api)
        await noted(api, "error_rate max 0.01", candidate="v3")
        await yes(api, "rollout")
        assert (await no(api, "rollback"))[0] == "hook_no_rollback"


async def test_a_promotion_is_the_last_word_on_gates_before_it(serve: Serve) -> None:
    async with serve() as api:
        await before_release(api)
        await put(api)
        await noted(api, "error_rate max 0.01")
        await api.client.post(f"{ROLLOUT}/promote", json={"version": "v4"})
        await applied(api)
        await yes(api, "confirm-promotion")
        assert (await no(api, "rollback"))[0] == "hook_no_rollback"


async def test_success_promotes_once(serve: Serve) -> None:
    async with serve() as api:
        await before_release(api)
        await put(api)
        done = await yes(api, "post-rollout", phase="Succeeded")
        assert (done["outcome"], done["generation"]) == ("promoted", 2)
        again = await yes(api, "post-rollout", phase="Succeeded")
        assert (again["outcome"], again["generation"]) == ("unchanged", 2)
        state = await applied(api)
        assert (state["production"], state["weights"]) == ("v4", {"v2": 0, "v4": 100})
        assert state["updated_by"] == "flagger/softprompt/support-release"


async def test_failure_rolls_back_once(serve: Serve) -> None:
    async with serve() as api:
        await before_release(api)
        await put(api)
        done = await yes(api, "post-rollout", phase="Failed")
        assert (done["outcome"], done["generation"]) == ("rolled_back", 2)
        again = await yes(api, "post-rollout", phase="Failed")
        assert (again["outcome"], again["generation"]) == ("unchanged", 2)
        state = await applied(api)
        assert (state["production"], state["weights"]) == ("v2", {"v2": 100})


async def test_failure_rolls_back_what_our_steps_have_promoted(serve: Serve) -> None:
    async with serve() as api:
        await before_release(api)
        await put(api, steps=STEPS)
        await api.client.post(f"{ROLLOUT}/promote")
        assert (await yes(api, "post-rollout", phase="Failed"))["outcome"] == "rolled_back"
        assert (await applied(api))["production"] == "v2"


@pytest.mark.parametrize(
    "weights", [None, {"v2": 100, "v4": 0}, {"v2": 50, "v5": 50}, {"v5": 1}], ids=str
)
async def test_failure_leaves_alone_what_the_candidate_has_no_share_in(
    serve: Serve, weights: dict[str, int] | None
) -> None:
    async with serve() as api:
        await before_release(api)
        await api.import_soft(3, version="v5")
        if weights is not None:
            await api.client.put(f"{ROLLOUT}/weights", json=weights)
        before = (await api.client.get(ROLLOUT)).json()
        done = await yes(api, "post-rollout", phase="Failed")
        assert done["outcome"] == "unchanged"
        after = (await api.client.get(ROLLOUT)).json()
        assert (before["generation"], before["weights"]) == (
            after["generation"],
            after["weights"],
        )


async def test_success_does_not_bring_back_what_was_rolled_back(serve: Serve) -> None:
    async with serve() as api:
        await before_release(api)
        await put(api)
        await api.client.post(f"{ROLLOUT}/rollback")
        assert (await no(api, "post-rollout", phase="Succeeded"))[0] == "hook_not_ready"
        assert (await applied(api))["production"] == "v2"


async def test_any_other_phase_changes_nothing(serve: Serve) -> None:
    async with serve() as api:
        await before_release(api)
        await put(api)
        done = await yes(api, "post-rollout", phase="Promoting")
        assert (done["outcome"], done["generation"]) == ("unchanged", 1)


async def test_an_event_is_logged(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "softprompt_serve.server.hooks")
    async with serve() as api:
        said = {"prompt": None, "version": None, "eventMessage": "Advance\nFAKE", "eventType": "N"}
        assert (await yes(api, "event", **said))["outcome"] == "recorded"
    assert "'flagger/softprompt/support-release' is 'Progressing'" in caplog.text
    assert "Advance\\nFAKE" in caplog.text  # a line of its own can't be forged


@pytest.mark.parametrize("hook", [*QUESTIONS, "post-rollout"])
async def test_a_webhook_must_say_what_it_is_about(serve: Serve, hook: str) -> None:
    async with serve() as api:
        for missing in ("prompt", "version"):
            answer = await ask(api, hook, **{missing: None})
            assert (answer.status_code, code_of(answer)) == (422, "invalid_hook")
            assert answer.json()["error"]["param"] == f"metadata.{missing}"


@pytest.mark.parametrize("hook", [*QUESTIONS, "post-rollout"])
async def test_what_does_not_exist_is_not_found(serve: Serve, hook: str) -> None:
    async with serve() as api:
        await before_release(api)
        answer = await ask(api, hook, version="v9")
        assert (answer.status_code, code_of(answer)) == (404, "version_not_found")
        answer = await ask(api, hook, prompt="other")
        assert (answer.status_code, code_of(answer)) == (404, "prompt_not_found")


async def test_a_hook_that_flagger_does_not_have_is_refused(serve: Serve) -> None:
    async with serve() as api:
        answer = await ask(api, "confirm")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "hook")


async def test_fields_that_flagger_may_add_are_ignored(serve: Serve) -> None:
    async with serve() as api:
        await before_release(api)
        body = {"metadata": {"prompt": "support", "version": "v4", "more": "x"}, "weight": 7}
        answer = await api.client.post(f"{V1}/hooks/flagger/pre-rollout", json=body)
        assert answer.status_code == 200


async def test_the_address_may_carry_the_token(serve: Serve) -> None:
    async with serve(token=None) as api:
        url = f"{V1}/hooks/flagger/event"
        assert (await api.client.post(url, json={})).status_code == 401
        assert (
            await api.client.post(f"http://flagger:nope@server{url}", json={})
        ).status_code == 401
        answer = await api.client.post(f"http://flagger:{ADMIN_TOKEN}@server{url}", json={})
        assert answer.status_code == 200
