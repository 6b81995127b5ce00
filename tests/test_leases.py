"""Acting alone among replicas."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from softprompt_serve.registry.database import Database
from softprompt_serve.registry.leases import Leases

# Counts how often it got the lease that it and the others ask for at once.
TAKER = """
import sys
from softprompt_serve.registry.database import Database
from softprompt_serve.registry.leases import Leases

leases = Leases(Database.open(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
print(sum(leases.take(f"lease-{number}", sys.argv[2], 60) for number in range(30)))
"""


@pytest.fixture
def leases(database_url: str) -> Iterator[Leases]:
    database = Database.open(database_url)
    yield Leases(database)
    database.close()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The database's clock, as a list of one."""
    time = [1_000_000.0]
    monkeypatch.setattr(Database, "clock", lambda *_: time[0])
    return time


def test_a_free_lease_is_taken(leases: Leases) -> None:
    assert leases.holder("controller") is None
    assert leases.take("controller", "a", 60)
    assert leases.holder("controller") == "a"


def test_another_s_lease_is_refused(leases: Leases) -> None:
    leases.take("controller", "a", 60)
    assert not leases.take("controller", "b", 60)
    assert leases.holder("controller") == "a"


def test_each_name_is_a_lease_of_its_own(leases: Leases) -> None:
    assert leases.take("one", "a", 60)
    assert leases.take("two", "b", 60)


def test_an_own_lease_is_renewed(leases: Leases, now: list[float]) -> None:
    leases.take("controller", "a", 10)
    now[0] += 9
    assert leases.take("controller", "a", 10)
    now[0] += 9
    assert leases.holder("controller") == "a"
    assert not leases.take("controller", "b", 10)


def test_an_expired_lease_is_free(leases: Leases, now: list[float]) -> None:
    leases.take("controller", "a", 10)
    now[0] += 10
    assert leases.holder("controller") is None
    assert leases.take("controller", "b", 10)
    assert not leases.take("controller", "a", 10)


def test_a_lease_from_before_the_clock_went_back_is_free(leases: Leases, now: list[float]) -> None:
    leases.take("controller", "a", 10)
    now[0] -= 60
    assert not leases.take("controller", "b", 10)
    now[0] -= 3540
    assert leases.take("controller", "b", 10)
    assert not leases.take("controller", "a", 10)


def test_a_released_lease_is_free(leases: Leases) -> None:
    leases.take("controller", "a", 60)
    leases.release("controller", "a")
    assert leases.holder("controller") is None
    assert leases.take("controller", "b", 60)


def test_only_the_holder_releases(leases: Leases) -> None:
    leases.take("controller", "a", 60)
    leases.release("controller", "b")
    assert leases.holder("controller") == "a"


def test_of_threads_that_try_at_once_one_gets_it(leases: Leases) -> None:
    with ThreadPoolExecutor(8) as pool:
        for number in range(20):
            name = f"lease-{number}"
            taken = list(pool.map(lambda holder: leases.take(name, holder, 60), "abcdefgh"))  # noqa: B023 - used in its turn
            assert taken.count(True) == 1
            assert leases.holder(name) == "abcdefgh"[taken.index(True)]


def test_of_threads_that_find_it_expired_one_gets_it(leases: Leases, now: list[float]) -> None:
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            now[0] += 60
            taken = list(pool.map(lambda holder: leases.take("one", holder, 60), "abcdefgh"))
            assert taken.count(True) == 1


def test_of_processes_that_try_at_once_one_gets_it(database_url: str) -> None:
    Database.open(database_url).close()
    command = [sys.executable, "-c", TAKER, database_url]
    pipe = subprocess.PIPE
    processes = [
        subprocess.Popen([*command, holder], stdin=pipe, stdout=pipe, text=True) for holder in "ab"
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert sum(int(process.communicate(timeout=60)[0]) for process in processes) == 30
