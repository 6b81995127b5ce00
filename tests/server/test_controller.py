"""The controller on a real catalogue: who acts, what is made of it, and what is kept."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from rollout.events import event

from softprompt_serve.artifact import Content
from softprompt_serve.errors import Conflict, Unavailable
from softprompt_serve.registry.catalog import Catalogue
from softprompt_serve.registry.database import Database
from softprompt_serve.registry.guard import Pass
from softprompt_serve.registry.leases import Leases
from softprompt_serve.registry.policies import Policies
from softprompt_serve.registry.replicas import Replicas, Serving
from softprompt_serve.registry.rollouts import Rollouts, View
from softprompt_serve.registry.tallies import Tallies, Tally
from softprompt_serve.release.policy import Policy
from softprompt_serve.rollout.spec import RolloutSpec
from softprompt_serve.rollout.tally import Tallier
from softprompt_serve.router.ask import Ask, Labels
from softprompt_serve.router.choose import choose
from softprompt_serve.server.controller import LEASE, Controller, Pace, tallied_rollouts
from softprompt_serve.server.judging import Judge
from softprompt_serve.testing import service_for_tests, settings_for_tests

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from softprompt_serve.registry.snapshot import Rollout
    from softprompt_serve.server.service import Service
    from softprompt_serve.telemetry.events import Operation

LABELS = Labels(("regulated",))
PACE = Pace(every=0.01, lease=10.0, alive=5.0)
DOCUMENT = {
    "arms": [{"version": "v1", "weight": 100}, {"version": "v2", "weight": 0}],
    "steps": [
        {"weight": 5, "min_requests": 10, "min_duration_seconds": 30},
        {"weight": 50, "min_requests": 20, "min_duration_seconds": 30},
    ],
    "gates": [{"metric": "error_rate", "max_increase": 0.01}],
    "pause_after_idle_seconds": 300.0,
}


class Server:
    """One of several that share a catalogue: a database connection, a tallier, a controller."""

    def __init__(self, url: str, name: str, ledgers: tuple[Any, ...] = ()) -> None:
        self.name = name
        self.database = Database.open(url)
        self.catalogue = Catalogue(self.database)
        self.rollouts = Rollouts(self.database, LABELS, guarded=True)
        self.policies = Policies(self.database)
        self.worthy: set[str] = set()
        self.replicas, self.leases = Replicas(self.database), Leases(self.database)
        self.tallies, self.tallier = Tallies(self.database), Tallier()
        self.refreshed = 0
        self.told: list[Operation] = []
        self.controller = Controller(
            judge=Judge(self.rollouts, self.tallies, LABELS.all_cohorts, self.grant),
            replicas=self.replicas,
            leases=self.leases,
            tallies=self.tallies,
            tallier=self.tallier,
            ledgers=ledgers,
            snapshot=self.catalogue.snapshot,
            changed=self._changed,
            tell=self.told.append,
            replica=name,
            pace=PACE,
        )

    def grant(self, prompt: str, version: str) -> Pass:
        """Stands for the judgement on evidence."""
        if version not in self.worthy:
            msg = f"{prompt}@{version} fails a gate."
            raise Conflict(msg, code="gates_failed")
        found = self.catalogue.snapshot().prompts[prompt].versions[version]
        return Pass(version, found.digest, self.policies.get(prompt).tag)

    async def _changed(self) -> None:
        self.refreshed += 1

    @property
    def rollout(self) -> Rollout:
        found = self.rollouts.get("support")
        assert found is not None
        return found

    def put(self, prompt: str = "support", **changes: Any) -> None:
        spec = RolloutSpec.model_validate(DOCUMENT | changes)
        self.rollouts.put(prompt, spec, if_match=None, actor="ada")

    def follow(self) -> None:
        """Say that it serves what there is, all versions resident."""
        serving = {"support": Serving(self.rollout.generation, ("v1", "v2"))}
        self.replicas.beat(self.name, self.name, 1, serving)

    def answer(self, version: str, times: int, **fields: Any) -> None:
        epoch, generation = self.rollout.epoch, self.rollout.generation
        for _ in range(times):
            self.tallier(event(version, epoch=epoch, generation=generation, **fields))

    def tick(self) -> None:
        asyncio.run(self.controller.tick())

    def findings(self) -> dict[str, Any]:
        found = self.rollouts.findings("support")
        assert found is not None
        return dict(found[2])


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The database's clock, as a list of one."""
    time = [1_000_000.0]
    monkeypatch.setattr(Database, "clock", lambda *_: time[0])
    return time


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new catalogue, in SQLite unless a test asks for both kinds."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return f"sqlite:///{tmp_path}/catalogue.db"
    found: str = request.getfixturevalue("postgres_url")
    return found


on_both = pytest.mark.parametrize("url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def servers(url: str, now: list[float]) -> Iterator[tuple[Server, Server]]:
    """Two servers; `support` has v1, in production, and v2."""
    both = Server(url, "a"), Server(url, "b")
    for text in ("one", "two"):
        both[0].catalogue.add_version("support", None, Content("hard", text=text), {})
    both[0].catalogue.set_alias("support", "production", "v1")
    yield both
    for server in both:
        server.catalogue.close()


@pytest.fixture
def server(servers: tuple[Server, Server]) -> Server:
    """The first of them, with a rollout in its first step."""
    first, _ = servers
    first.put()
    first.follow()
    first.tick()
    assert first.rollout.state == "progressing"
    return first


@on_both
def test_a_rollout_goes_step_by_step_to_its_end(server: Server, now: list[float]) -> None:
    assert (server.rollout.step, dict(server.rollout.weights)) == (0, {"v1": 95, "v2": 5})
    server.answer("v2", 10)
    now[0] += 30
    server.tick()
    assert (server.rollout.step, dict(server.rollout.weights)) == (1, {"v1": 50, "v2": 50})
    assert server.rollout.step_base == 10
    server.answer("v2", 20)
    now[0] += 30
    server.tick()
    assert server.rollout.state == "promoted"
    assert server.catalogue.snapshot().prompts["support"].aliases["production"] == "v2"
    assert server.refreshed == 3
    audit = [(entry.action, entry.actor) for entry in server.catalogue.audit()]
    assert ("rollout.promoted", "rollout-controller") in audit
    told = [(made.name, made.actor, made.error) for made in server.told]
    assert told == [
        (name, "rollout-controller", None) for name in ("advance", "advance", "promote")
    ]


def to_the_end(server: Server, now: list[float]) -> None:
    """Both steps, with all the answers and the time that they take."""
    server.policies.put("support", Policy(baseline="v1", kinds=("soft", "hard")))
    for answers in (10, 20):
        server.answer("v2", answers)
        now[0] += 30
        server.tick()


def test_a_candidate_that_may_not_be_promoted_is_held_where_it_is(
    server: Server, now: list[float]
) -> None:
    to_the_end(server, now)
    assert (server.rollout.state, dict(server.rollout.weights)) == ("paused", {"v1": 50, "v2": 50})
    assert "Not promoted: support@v2 fails a gate." in server.rollout.reason
    assert server.catalogue.snapshot().prompts["support"].aliases["production"] == "v1"
    server.tick()
    assert server.rollout.state == "paused"


def test_a_candidate_that_has_earned_it_is_promoted_by_the_controller(
    server: Server, now: list[float]
) -> None:
    server.worthy.add("v2")
    to_the_end(server, now)
    assert server.rollout.state == "promoted"
    detail = server.catalogue.audit(limit=1)[0].detail
    assert (detail["gates"], detail["production"]) == ("passed", "v2")


def test_the_first_step_waits_for_every_live_replica(
    servers: tuple[Server, Server], now: list[float]
) -> None:
    first, second = servers
    second.replicas.beat("b", "b", 1, {})
    first.put()
    first.follow()
    first.tick()
    assert first.rollout.state == "pending"
    assert "Not every live replica" in first.findings()["reason"]
    now[0] += 6  # by now the second is taken for dead
    first.follow()
    first.tick()
    assert first.rollout.state == "progressing"


def test_a_bad_candidate_is_rolled_back_with_the_numbers(server: Server) -> None:
    server.answer("v1", 300)
    server.answer("v2", 40, status=500)
    server.tick()
    assert server.rollout.state == "rolled_back"
    assert dict(server.rollout.weights) == {"v1": 100}
    assert "`error_rate max_increase 0.01` is broken for all requests" in server.rollout.reason
    found = server.findings()
    assert found["action"] == "rollback"
    assert found["answers"] == {"v1": 300, "v2": 40}
    assert found["gates"][0]["broken"]


def test_what_another_server_counted_counts(servers: tuple[Server, Server], server: Server) -> None:
    _, other = servers
    other.answer("v1", 300)
    other.answer("v2", 40, status=500)
    other.tick()  # it has no lease, and writes what it counted
    assert other.rollout.state == "progressing"
    server.tick()
    assert server.rollout.state == "rolled_back"


@on_both
def test_of_two_exactly_one_acts(
    servers: tuple[Server, Server], server: Server, now: list[float]
) -> None:
    _, other = servers
    server.answer("v2", 10)
    server.tick()
    now[0] += 30
    for _ in range(3):
        server.tick()
        other.tick()
    assert server.rollout.generation == 3  # put, step 1, step 2
    assert server.leases.holder(LEASE) == "a"
    assert other.refreshed == 0


@on_both
def test_when_the_one_is_killed_the_other_goes_on_where_it_was(
    servers: tuple[Server, Server], server: Server, now: list[float]
) -> None:
    _, other = servers
    server.answer("v1", 100)
    server.answer("v2", 9)
    server.tick()
    evidence = server.findings()["memory"]
    now[0] += 5  # and it is gone
    other.answer("v2", 1)
    other.tick()
    assert server.rollout.step == 0
    assert server.findings()["memory"] == evidence
    now[0] += 30
    other.tick()
    assert other.rollout.step == 1  # with the nine answers that the dead one counted
    assert other.rollout.step_base == 10
    assert other.findings()["memory"]["trials"]["0/*"] == evidence["trials"]["0/*"]


@on_both
def test_a_clock_that_goes_back_an_hour_moves_nothing_and_keeps_nobody_from_acting(
    servers: tuple[Server, Server], server: Server, now: list[float]
) -> None:
    _, other = servers
    server.answer("v2", 10)
    now[0] += 30 - 3600
    server.tick()
    assert (server.rollout.state, server.rollout.step) == ("progressing", 0)
    now[0] += 20
    server.tick()  # and it is gone, with a lease of its own
    now[0] -= 3600
    other.tick()
    assert other.leases.holder(LEASE) == "b"
    assert (other.rollout.state, other.rollout.step) == ("progressing", 0)
    now[0] += 7200
    other.tick()
    assert (other.rollout.state, other.rollout.step) == ("progressing", 1)


def test_who_stops_lets_the_other_act_at_once(
    servers: tuple[Server, Server], server: Server
) -> None:
    async def briefly() -> None:
        await server.controller.start()
        server.answer("v2", 3)
        await server.controller.stop()

    asyncio.run(briefly())
    assert server.leases.holder(LEASE) is None
    rows = server.tallies.read("support", "requests", server.rollout.epoch)
    assert [row.data["requests"] for row in rows] == [3]


def test_a_database_that_hangs_does_not_hold_up_the_end(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering = threading.Event()
    monkeypatch.setattr(Tallies, "write", lambda *_: answering.wait(20))
    monkeypatch.setattr("softprompt_serve.server.controller._PATIENCE_SECONDS", 0.05)

    async def briefly() -> float:
        await server.controller.start()
        await asyncio.sleep(0)
        begun = time.monotonic()
        await server.controller.stop()
        taken = time.monotonic() - begun
        answering.set()
        return taken

    assert asyncio.run(briefly()) < 10
    assert server.leases.holder(LEASE) == "a"  # it ends by itself


def test_it_runs_by_itself(server: Server, now: list[float]) -> None:
    async def until_the_next_step() -> None:
        await server.controller.start()
        server.answer("v2", 10)
        now[0] += 30
        async with asyncio.timeout(20):
            while server.rollout.step != 1:  # noqa: ASYNC110 - the database has no event to wait for
                await asyncio.sleep(0.01)
        await server.controller.stop()

    asyncio.run(until_the_next_step())


def test_somebody_elses_change_comes_first(
    server: Server, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answer("v2", 10)
    now[0] += 30
    view = Rollouts.view

    def slowly(rollouts: Rollouts, prompt: str) -> View:
        seen = view(rollouts, prompt)
        rollouts.pause(prompt, if_match=None, actor="ada", reason="Let me look.")
        return seen

    monkeypatch.setattr(Rollouts, "view", slowly)
    server.tick()
    assert (server.rollout.state, server.rollout.updated_by) == ("paused", "ada")
    assert server.rollout.step == 0


def test_no_traffic_pauses_and_traffic_resumes(server: Server, now: list[float]) -> None:
    now[0] += 301
    server.tick()
    assert server.rollout.state == "paused"
    assert server.rollout.reason.startswith("no_traffic")
    server.tick()
    assert server.rollout.state == "paused"
    server.answer("v2", 1)
    server.tick()
    assert server.rollout.state == "progressing"
    assert server.rollout.step_since == now[0]


def test_what_a_person_paused_stays(server: Server, now: list[float]) -> None:
    server.rollouts.pause("support", if_match=None, actor="ada")
    server.answer("v2", 10)
    now[0] += 30
    server.tick()
    assert server.rollout.state == "paused"
    assert server.findings()["answers"]["v2"] == 10


def test_what_can_not_be_rolled_back_is_paused(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any, **__: Any) -> None:
        msg = "Generation 0 gave all traffic to v0, which was removed since."
        raise Conflict(msg, code="rollback_target_gone")

    monkeypatch.setattr(Rollouts, "rollback", gone)
    server.answer("v1", 300)
    server.answer("v2", 40, status=500)
    server.tick()
    assert server.rollout.state == "paused"
    assert "It can't be rolled back: Generation 0" in server.rollout.reason


def test_a_database_that_is_down_is_said_once_and_nothing_is_lost(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def down(*_: Any) -> None:
        msg = "The catalogue can't be used now."
        raise Unavailable(msg, code="catalogue_unavailable")

    server.answer("v2", 3)
    with monkeypatch.context() as patch:
        patch.setattr(Tallies, "write", down)
        server.tick()
        server.tick()
    assert caplog.text.count("Rollouts can't be judged now") == 1
    assert server.controller.error is not None
    server.tick()
    assert server.controller.error is None
    assert server.findings()["answers"]["v2"] == 3


def test_one_rollouts_trouble_is_not_anothers(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for text in ("one", "two"):
        server.catalogue.add_version("another", None, Content("hard", text=text), {})
    server.catalogue.set_alias("another", "production", "v1")
    server.put("another")
    view = Rollouts.view

    def broken(rollouts: Rollouts, prompt: str) -> View:
        if prompt == "another":
            msg = "something nobody thought of"
            raise RuntimeError(msg)
        return view(rollouts, prompt)

    monkeypatch.setattr(Rollouts, "view", broken)
    server.answer("v1", 300)
    server.answer("v2", 40, status=500)
    server.tick()
    server.tick()
    assert server.rollout.state == "rolled_back"
    assert caplog.text.count("The rollout of another can't be moved on") == 1


def test_what_can_not_be_done_is_said_in_the_findings(
    server: Server, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        msg = "v2 is unloaded."
        raise Conflict(msg, code="version_unloaded")

    monkeypatch.setattr(Rollouts, "make", refused)
    server.answer("v2", 10)
    now[0] += 30
    server.tick()
    assert server.findings()["trouble"] == "v2 is unloaded."
    assert server.refreshed == 1


def test_gates_without_steps_are_looked_at_and_nothing_is_done(
    servers: tuple[Server, Server],
) -> None:
    first, _ = servers
    first.put(steps=[], arms=[{"version": "v1", "weight": 90}, {"version": "v2", "weight": 10}])
    first.answer("v1", 300)
    first.answer("v2", 40, status=500)
    first.tick()
    assert first.rollout.state == "static"
    assert first.findings()["gates"][0]["broken"]


def test_findings_that_are_the_same_are_not_written_again(server: Server, now: list[float]) -> None:
    server.rollouts.pause("support", if_match=None, actor="ada")
    server.tick()
    first = server.rollouts.findings("support")
    now[0] += 5
    server.tick()
    assert server.rollouts.findings("support") == first
    now[0] += 5
    server.tick()
    again = server.rollouts.findings("support")
    assert again is not None
    assert again[1] == now[0]


def test_what_was_counted_for_an_earlier_comparison_is_forgotten(server: Server) -> None:
    server.answer("v2", 3)
    server.tick()
    before = server.rollout.epoch
    server.put(alpha=0.01)
    server.tick()
    assert server.tallies.read("support", "requests", before) == []


def test_a_rollout_that_is_over_is_not_counted(server: Server) -> None:
    server.rollouts.promote("support", None, if_match=None, actor="ada")
    server.answer("v2", 3)
    server.tick()
    assert server.tallies.read("support", "requests", server.rollout.epoch) == []
    assert tallied_rollouts(server.catalogue.snapshot()) == {}


def test_a_shadow_alone_is_counted_and_not_judged(servers: tuple[Server, Server]) -> None:
    first, _ = servers
    document = {"arms": [{"version": "v1", "weight": 1}], "shadow": {"version": "v2", "sample": 1}}
    spec = RolloutSpec.model_validate(document)
    before = Tally("support", 0, "a", "shadow", "v2", "default", {"pairs": 1})
    first.tallies.write([before])
    first.rollouts.put("support", spec, if_match=None, actor="ada")
    first.tick()
    assert tallied_rollouts(first.catalogue.snapshot()).keys() == {"support"}
    assert first.tallies.read("support", "shadow", 0) == []
    assert first.rollouts.findings("support") is None


class Shadows:
    """A ledger with one row that is always new."""

    def __init__(self, row: Tally) -> None:
        self.row = row
        self.back: list[Tally] = []

    def dirty(self, replica: str) -> list[Tally]:
        return [self.row]

    def unwritten(self, tallies: list[Tally]) -> None:
        self.back += tallies


def test_another_ledgers_rows_are_written_and_judged(
    servers: tuple[Server, Server], url: str
) -> None:
    first, _ = servers
    first.put(
        shadow={"version": "v2", "sample": 1.0}, gates=[{"metric": "shadow_mismatch", "max": 0.1}]
    )
    data = {"pairs": 100, "mismatches": 90, "means": {"similarity": [100, 1.0, 1.0]}}
    row = Tally("support", first.rollout.epoch, "c", "shadow", "v2", "default", data)
    third = Server(url, "c", (Shadows(row),))
    try:
        third.tick()
        assert third.rollout.state == "rolled_back"
    finally:
        third.catalogue.close()


def test_a_whole_server_walks_a_rollout_to_its_end(tmp_path: Path) -> None:
    async def walk() -> Service:
        settings = settings_for_tests(tmp_path, controller_seconds=0.02)
        service = service_for_tests(tmp_path, settings=settings)
        for text in ("one", "two"):
            service.catalogue.add_version("support", None, Content("hard", text=text), {})
        service.catalogue.set_alias("support", "production", "v1")
        steps = [{"weight": 50, "min_requests": 20, "min_duration_seconds": 0}] * 2
        spec = RolloutSpec.model_validate(DOCUMENT | {"steps": steps})
        service.rollouts.put("support", spec, if_match=None, actor="ada")
        await service.start()
        try:
            async with asyncio.timeout(30):
                while service.snapshot.prompts["support"].aliases["production"] != "v2":
                    decision = choose(service.snapshot, "support", Ask(key=uuid.uuid4().hex))
                    service.events.emit(replace(event(), decision=decision))
                    await asyncio.sleep(0)
        finally:
            await service.close()
        return service

    support = asyncio.run(walk()).snapshot.prompts["support"]
    assert support.rollout is not None
    assert (support.rollout.state, support.rollout.updated_by) == ("promoted", "rollout-controller")
