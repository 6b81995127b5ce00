"""Answers that are remembered for a while, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from rollout.events import answer

from softprompt_serve.registry.answers import Answers, Reaction, Verdict
from softprompt_serve.registry.database import Database
from softprompt_serve.telemetry.events import TraceRef

TRACE = TraceRef("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", sampled=False)
ONE = answer("v2", trace=TRACE, arm="candidate", cohort="regulated", route="planner", at=1000.5)
TWO = replace(ONE, response_id="chatcmpl-2", trace=None, version="v1", at=1001.0)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database.open(database_url)
    yield database
    database.close()


@pytest.fixture
def answers(database: Database) -> Answers:
    return Answers(database, keep=100)


def test_an_answer_is_found_as_it_was_remembered(answers: Answers) -> None:
    answers.remember([ONE, TWO])
    assert answers.find("chatcmpl-1") == ONE
    assert answers.find("chatcmpl-2") == TWO


def test_what_nobody_remembers_is_not_found(answers: Answers) -> None:
    answers.remember([])
    assert answers.find("chatcmpl-1") is None
    assert answers.of_trace(TRACE.trace_id) == []
    assert answers.react("chatcmpl-1", Reaction("refund")) is None
    assert answers.judge("chatcmpl-1", Verdict("tone", passed=True)) is None


def test_of_two_answers_with_one_id_the_later_counts(answers: Answers) -> None:
    later = replace(ONE, version="v3")
    answers.remember([ONE])
    answers.remember([replace(ONE, version="v9"), later])
    assert answers.find("chatcmpl-1") == later


def test_a_trace_has_its_newest_answers_first(answers: Answers) -> None:
    later = replace(ONE, response_id="chatcmpl-3", at=2000.0)
    answers.remember([ONE, TWO, later])
    assert answers.of_trace(TRACE.trace_id) == [later, ONE]


def test_a_reaction_is_new_once_for_its_kind(answers: Answers) -> None:
    answers.remember([ONE])
    assert answers.react("chatcmpl-1", Reaction("thumbs_up")).new
    assert not answers.react("chatcmpl-1", Reaction("thumbs_up")).new
    assert answers.react("chatcmpl-1", Reaction("refund")).new


def test_the_first_reaction_and_the_first_that_finds_fault_are_told_apart(
    answers: Answers,
) -> None:
    answers.remember([ONE])
    told = [answers.react("chatcmpl-1", Reaction(k)) for k in ("thumbs_up", "refund", "escalation")]
    assert [said.first for said in told] == [True, False, False]
    assert [said.first_unhappy for said in told] == [False, True, False]


def test_a_reaction_that_is_told_again_has_the_new_value_and_note(answers: Answers) -> None:
    answers.remember([ONE])
    answers.react("chatcmpl-1", Reaction("refund", 5.0, "half of it"))
    answers.react("chatcmpl-1", Reaction("refund", 10.0, "all of it"))
    (found,), _ = answers.said("chatcmpl-1")
    assert (found.kind, found.value, found.note) == ("refund", 10.0, "all of it")
    assert found.at > 1_700_000_000


def test_an_evaluators_first_verdict_counts(answers: Answers) -> None:
    answers.remember([ONE])
    first = Verdict("tone", passed=True, score=0.9)
    assert answers.judge("chatcmpl-1", first) == (True, first)
    new, counted = answers.judge("chatcmpl-1", Verdict("tone", passed=False))
    assert not new
    assert (counted.passed, counted.score) == (True, 0.9)
    assert answers.judge("chatcmpl-1", Verdict("facts", passed=False))[0]


def test_what_many_say_at_once_is_new_once(answers: Answers) -> None:
    answers.remember([ONE])

    def say(number: int) -> tuple[bool, bool, bool, bool]:
        said = answers.react("chatcmpl-1", Reaction("thumbs_down", number))
        judged = answers.judge("chatcmpl-1", Verdict("tone", passed=True))
        return said.new, said.first, said.first_unhappy, judged[0]

    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(say, range(24)))
    assert [sum(column) for column in zip(*told, strict=True)] == [1, 1, 1, 1]


def test_replicas_may_remember_at_once(answers: Answers) -> None:
    def remember(number: int) -> None:
        shared = [replace(ONE, response_id=f"both-{k}") for k in range(20)]
        own = [replace(ONE, response_id=f"{number}-{k}") for k in range(5)]
        answers.remember(shared if number % 2 else list(reversed(shared)))
        answers.remember(own)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(remember, range(8)))
    assert all(answers.find(f"{n}-{k}") for n in range(8) for k in range(5))


def test_the_oldest_answers_make_room_with_all_that_was_said_of_them(database: Database) -> None:
    answers = Answers(database, keep=3)
    answers.remember([ONE])
    answers.react("chatcmpl-1", Reaction("refund"))
    answers.judge("chatcmpl-1", Verdict("tone", passed=True))
    answers.remember([replace(ONE, response_id=f"new-{k}", at=2000.0 + k) for k in range(3)])
    assert answers.find("chatcmpl-1") is None
    assert answers.said("chatcmpl-1") == ([], [])
    assert [answers.find(f"new-{k}") is not None for k in range(3)] == [True, True, True]


def test_as_many_as_are_wanted_are_kept(database: Database) -> None:
    answers = Answers(database, keep=10)
    for k in range(25):
        answers.remember([replace(ONE, response_id=f"a-{k}", at=float(k))])
    kept = [k for k in range(25) if answers.find(f"a-{k}")]
    assert kept[-10:] == list(range(15, 25))
    assert len(kept) < 20
