"""What replicas have counted, kept for all of them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from softprompt_serve.registry.database import Database
from softprompt_serve.registry.tallies import Tallies, Tally

ONE = Tally("support", 3, "a", "requests", "v1", "default", {"requests": 5, "seconds": [0.5, 2]})


@pytest.fixture
def tallies(database_url: str) -> Iterator[Tallies]:
    database = Database.open(database_url)
    yield Tallies(database)
    database.close()


def test_what_was_written_is_read(tallies: Tallies) -> None:
    tallies.write([ONE])
    assert tallies.read("support", "requests", 3) == [ONE]


def test_a_row_is_replaced_as_a_whole(tallies: Tallies) -> None:
    later = replace(ONE, data={"requests": 9})
    tallies.write([ONE])
    tallies.write([later])
    assert tallies.read("support", "requests", 3) == [later]


def test_replicas_versions_and_cohorts_have_rows_of_their_own(tallies: Tallies) -> None:
    rows = [
        ONE,
        replace(ONE, cohort="regulated"),
        replace(ONE, version="v2"),
        replace(ONE, replica="b"),
    ]
    tallies.write(reversed(rows))
    assert tallies.read("support", "requests", 3) == rows


def test_other_prompts_kinds_and_epochs_are_not_read(tallies: Tallies) -> None:
    others = [replace(ONE, prompt="other"), replace(ONE, kind="shadow"), replace(ONE, epoch=4)]
    tallies.write([ONE, *others])
    assert tallies.read("support", "requests", 3) == [ONE]
    assert tallies.read("support", "shadow", 3) == [others[1]]


def test_nothing_to_write_is_nothing(tallies: Tallies) -> None:
    tallies.write([])
    assert tallies.read("support", "requests", 3) == []


def test_all_rows_are_written_or_none(tallies: Tallies) -> None:
    with pytest.raises(ValueError, match="JSON"):
        tallies.write([ONE, replace(ONE, replica="b", data={"seconds": float("nan")})])
    assert tallies.read("support", "requests", 3) == []


def test_earlier_epochs_are_pruned_for_one_prompt(tallies: Tallies) -> None:
    kept = [replace(ONE, epoch=3), replace(ONE, epoch=1, prompt="other")]
    tallies.write([*kept, replace(ONE, epoch=1), replace(ONE, epoch=2, kind="shadow")])
    tallies.prune("support", keep_from_epoch=3)
    assert tallies.read("support", "requests", 1) == tallies.read("support", "shadow", 2) == []
    assert tallies.read("support", "requests", 3) == [kept[0]]
    assert tallies.read("other", "requests", 1) == [kept[1]]


def test_replicas_may_write_at_once(tallies: Tallies) -> None:
    def write(number: int) -> None:
        for turn in range(5):
            rows = [
                replace(ONE, replica=str(number), version=version, data={"requests": turn})
                for version in ("v1", "v2")
            ]
            tallies.write(rows)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    found = tallies.read("support", "requests", 3)
    assert len(found) == 16
    assert {tally.data["requests"] for tally in found} == {4}
