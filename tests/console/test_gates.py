"""What gates say of a version, before anybody promotes it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from console.visitors import Page, Visitor
from server.test_verdicts import POLICY, evaluated

from softprompt_serve.console.gates import drawing
from softprompt_serve.release.evidence_shapes import to_document

Serve = Callable[..., AbstractAsyncContextManager[Visitor]]

PROMOTE = "/prompts/support/promote"
STRICT = {**POLICY, "latency": {"p99_seconds": 0.01}}


@pytest.fixture
async def ada(serve: Serve) -> AsyncIterator[Visitor]:
    """v1, a text, is production; v2, a tensor, has a tenth of the traffic. Policies are enforced."""
    async with serve(promotion_gates="enforce") as visitor:
        await visitor.log_in("ada")
        text = {"version": "v1", "text": "Answer with one label."}
        await visitor.api("POST", "/prompts/support/versions", data=text)
        await visitor.soft("v2")
        await visitor.alias("v1")
        await visitor.api("PUT", "/prompts/support/policy", json=POLICY)
        arms = [{"version": "v1", "weight": 90}, {"version": "v2", "weight": 10}]
        await visitor.roll_out(arms=arms)
        yield visitor


async def prove(visitor: Visitor, **about: Any) -> None:
    versions = visitor.service.find_prompt("support").versions
    run = evaluated({name: version.digest for name, version in versions.items()}, **about)
    await visitor.api("POST", "/prompts/support/runs", content=to_document(run))


def forcing(page: Page) -> dict[str, str]:
    """What the page's box sends if it is ticked."""
    (box,) = [found for _, found in page.tags if found.get("name") == "force"]
    return {"force": box["value"] or ""}


@pytest.mark.anyio
async def test_a_gate_that_fails_is_shown_before_with_what_would_satisfy_it(ada: Visitor) -> None:
    page = await ada.page(PROMOTE)
    verdict = (await ada.api("GET", "/prompts/support/versions/v2/gates")).json()
    (failed,) = [gate for gate in verdict["gates"] if not gate["passed"]]
    assert "will be refused" in page.text
    for told in (failed["name"], failed["found"], failed["wanted"]):
        assert told in page.text
    assert "softprompt-serve eval run" in failed["hint"]
    assert "softprompt-serve eval run" in page.text
    assert f"1 of {len(verdict['gates'])} fail" in page.text


@pytest.mark.anyio
async def test_what_passes_is_promoted_without_force(ada: Visitor) -> None:
    await prove(ada)
    page = await ada.page(PROMOTE)
    assert "will be refused" not in page.text
    assert "all 2 pass" in page.text
    assert "+0.375" in page.text  # v2 has 70 of 80 right, v1 half
    assert (await ada.send(PROMOTE, page.fields)).status_code == 303
    newest = (await ada.audit())[0]
    assert (newest["action"], newest["detail"]["gates"]) == ("rollout.promoted", "passed")


@pytest.mark.anyio
async def test_without_force_a_version_that_fails_is_not_promoted(ada: Visitor) -> None:
    page = await ada.page(PROMOTE)
    answer = await ada.send(PROMOTE, page.fields | {"reason": "It is better."})
    assert answer.status_code == 409
    assert "gates_failed" in answer.text
    assert 'value="It is better."' in answer.text  # what was written is not lost
    assert (await ada.rollout())["production"] == "v1"


@pytest.mark.anyio
async def test_force_with_a_reason_promotes_and_is_audited(ada: Visitor) -> None:
    page = await ada.page(PROMOTE)
    answer = await ada.send(PROMOTE, page.fields | forcing(page) | {"reason": "An outage."})
    assert answer.status_code == 303
    newest = (await ada.audit())[0]
    assert newest["actor"] == "console:ada"
    assert (newest["detail"]["gates"], newest["detail"]["forced"]) == ("forced", "An outage.")
    assert newest["detail"]["failed"] == ["win exact_match on tickets"]


@pytest.mark.anyio
@pytest.mark.parametrize("reason", ["", " \n"])
async def test_force_without_a_reason_changes_nothing(ada: Visitor, reason: str) -> None:
    page = await ada.page(PROMOTE)
    answer = await ada.send(PROMOTE, page.fields | forcing(page) | {"reason": reason})
    assert answer.status_code == 400
    assert "has to say why" in answer.text
    assert (await ada.rollout())["production"] == "v1"


@pytest.mark.anyio
async def test_force_goes_past_the_gates_that_were_shown_and_no_others(ada: Visitor) -> None:
    await ada.api("PUT", "/prompts/support/policy", json=STRICT)
    page = await ada.page(PROMOTE)
    asked = page.fields | forcing(page) | {"reason": "An outage."}
    await prove(ada)  # it wins now, and is too slow
    answer = await ada.send(PROMOTE, asked)
    assert answer.status_code == 409
    assert (await ada.rollout())["production"] == "v1"
    shown = Page(answer.text)
    assert "say something else than when you looked" in shown.text
    again = shown.fields | forcing(shown) | {"reason": "An outage."}
    assert (await ada.send(PROMOTE, again)).status_code == 303


@pytest.mark.anyio
async def test_nor_past_the_same_gates_of_another_policy(ada: Visitor) -> None:
    page = await ada.page(PROMOTE)
    await ada.api("PUT", "/prompts/support/policy", json={**POLICY, "min_items": 60})
    asked = page.fields | forcing(page) | {"reason": "An outage."}
    assert (await ada.send(PROMOTE, asked)).status_code == 409


@pytest.mark.anyio
async def test_where_nothing_is_asked_no_gates_are_shown(ada: Visitor) -> None:
    for path in ("/prompts/support/rollback", f"{PROMOTE}?version=v1"):
        page = await ada.page(path)
        assert "gates" not in page.ids()
        assert (await ada.send(path.partition("?")[0], page.fields)).status_code == 303


@pytest.mark.anyio
async def test_a_server_that_does_not_enforce_policies_shows_no_gates(serve: Serve) -> None:
    async with serve() as visitor:
        await visitor.log_in()
        await visitor.split()
        assert "gates" not in (await visitor.page(PROMOTE)).ids()


def test_a_difference_is_drawn_with_its_interval_and_what_is_allowed() -> None:
    drawn = drawing({"low": -0.04, "high": 0.06, "difference": 0.01, "margin": -0.02})
    assert drawn is not None
    assert drawn.kind == "above"
    assert drawn.start < drawn.limit < drawn.zero < (drawn.at or 0.0) < drawn.start + drawn.width
    assert drawn.fine == (drawn.limit, pytest.approx(100 - drawn.limit))
    assert drawn.said == "+0.010, between -0.040 and +0.060; wanted above -0.020"


def test_a_figure_is_drawn_from_nothing_to_its_ceiling_and_beyond() -> None:
    drawn = drawing({"value": 1.5, "limit": 1.2, "items": 80})
    assert drawn is not None
    assert drawn.kind == "below"
    assert drawn.start == drawn.zero < drawn.limit < drawn.start + drawn.width < 100
    assert drawn.fine == (drawn.zero, pytest.approx(drawn.limit - drawn.zero))


@pytest.mark.parametrize(
    "numbers",
    [
        {},
        {"cohort": "regulated", "items": 0},
        {"limit": 1.2},
        {"low": float("nan"), "high": 1.0, "difference": 0.5, "margin": 0.0},
        {"low": float("-inf"), "high": 1.0, "difference": 0.5, "margin": 0.0},
    ],
)
def test_what_has_no_figures_is_not_drawn(numbers: dict[str, Any]) -> None:
    assert drawing(numbers) is None


def test_figures_that_are_all_the_same_can_be_drawn() -> None:
    drawn = drawing({"low": 0.0, "high": 0.0, "difference": 0.0, "margin": 0.0})
    assert drawn is not None
    assert 0 < drawn.limit < 100
