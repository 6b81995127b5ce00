"""Which replicas live, and what each of them serves."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select

from softprompt_serve.registry.catalog import Catalogue
from softprompt_serve.registry.database import Database
from softprompt_serve.registry.replicas import Replicas, Serving
from softprompt_serve.registry.tables import ReplicaRolloutRow


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database.open(database_url)
    yield opened
    opened.close()


@pytest.fixture
def replicas(database: Database) -> Replicas:
    return Replicas(database)


class Clock:
    """Stands for the database's clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000_000.0
        monkeypatch.setattr(Database, "clock", lambda *_: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_there_is_nobody_at_first(replicas: Replicas) -> None:
    assert replicas.live(within=60) == []


def test_who_beats_is_live_with_what_it_serves(replicas: Replicas, clock: Clock) -> None:
    replicas.beat("a", "pod-a", 7, {"support": Serving(3, ("v1", "v2"))})
    (replica,) = replicas.live(within=5)
    assert (replica.id, replica.name, replica.revision) == ("a", "pod-a", 7)
    assert (replica.started_at, replica.seen_at) == (clock.now, clock.now)
    assert dict(replica.rollouts) == {"support": Serving(3, ("v1", "v2"), since=clock.now)}


def test_a_silent_replica_is_not_live_until_it_beats_again(
    replicas: Replicas, clock: Clock
) -> None:
    replicas.beat("a", "pod-a", 1, {})
    clock.now += 6
    assert replicas.live(within=5) == []
    replicas.beat("a", "pod-a", 1, {})
    (replica,) = replicas.live(within=5)
    assert replica.seen_at - replica.started_at == 6


def test_who_was_last_seen_before_the_clock_went_back_is_not_live(
    replicas: Replicas, clock: Clock
) -> None:
    replicas.beat("a", "pod-a", 7, {})
    replicas.beat("b", "pod-b", 7, {})
    clock.now -= 3600
    replicas.beat("b", "pod-b", 7, {})
    assert [replica.id for replica in replicas.live(within=5)] == ["b"]


def test_since_stays_while_the_same_is_served(replicas: Replicas, clock: Clock) -> None:
    began = clock.now
    for _ in range(3):
        replicas.beat("a", "pod-a", 1, {"support": Serving(3, ("v1",))})
        clock.now += 1
    assert replicas.live(within=5)[0].rollouts["support"].since == began


@pytest.mark.parametrize("serving", [Serving(4, ("v1",)), Serving(3, ("v1", "v2")), Serving(3, ())])
def test_since_is_anew_when_something_else_is_served(
    replicas: Replicas, clock: Clock, serving: Serving
) -> None:
    other = Serving(1, ())
    replicas.beat("a", "pod-a", 1, {"support": Serving(3, ("v1",)), "other": other})
    began, clock.now = clock.now, clock.now + 1
    replicas.beat("a", "pod-a", 2, {"support": serving, "other": other})
    rollouts = replicas.live(within=5)[0].rollouts
    assert (rollouts["support"].since, rollouts["other"].since) == (clock.now, began)


def test_a_rollout_that_is_served_no_more_is_gone(replicas: Replicas) -> None:
    replicas.beat("a", "pod-a", 1, {"p": Serving(1, ()), "q": Serving(1, ())})
    replicas.beat("a", "pod-a", 2, {"q": Serving(1, ())})
    assert list(replicas.live(within=60)[0].rollouts) == ["q"]


def test_each_replica_speaks_for_itself(replicas: Replicas) -> None:
    replicas.beat("b", "pod-b", 2, {"p": Serving(2, ("v2",))})
    replicas.beat("a", "pod-a", 1, {"p": Serving(1, ("v1",))})
    found = {r.name: r.rollouts["p"].resident for r in replicas.live(within=60)}
    assert list(found.items()) == [("pod-a", ("v1",)), ("pod-b", ("v2",))]


def test_who_leaves_is_gone_at_once(replicas: Replicas, database: Database) -> None:
    for name in ("a", "b"):
        replicas.beat(name, name, 1, {"p": Serving(1, ())})
    replicas.leave("a")
    replicas.leave("a")
    assert [replica.id for replica in replicas.live(within=60)] == ["b"]
    assert rows(database) == 1


def test_who_was_not_seen_for_an_hour_is_forgotten(
    replicas: Replicas, database: Database, clock: Clock
) -> None:
    replicas.beat("old", "old", 1, {"p": Serving(1, ())})
    clock.now += 3601
    replicas.beat("new", "new", 1, {})
    assert [replica.id for replica in replicas.live(within=10_000)] == ["new"]
    assert rows(database) == 0


def test_many_replicas_may_beat_at_once(replicas: Replicas, clock: Clock) -> None:
    for number in range(8):
        replicas.beat(f"old-{number}", "old", 1, {"p": Serving(1, ())})
    clock.now += 4000
    with ThreadPoolExecutor(8) as pool:
        beats = [
            pool.submit(replicas.beat, str(n), str(n), turn, {"p": Serving(turn, ("v1",))})
            for turn in range(5)
            for n in range(8)
        ]
        for beat in beats:
            beat.result()
    assert [replica.id for replica in replicas.live(within=5)] == [str(n) for n in range(8)]


def test_a_beat_is_no_change_of_the_catalogue(replicas: Replicas, database: Database) -> None:
    replicas.beat("a", "a", 1, {"p": Serving(1, ())})
    assert Catalogue(database).revision() == 0


def rows(database: Database) -> int:
    with database.reading() as session:
        return session.scalar(select(func.count()).select_from(ReplicaRolloutRow))
