from __future__ import annotations

from shadows import answer, job

from softprompt_serve.shadow.capture import (
    MAX_PROMPTS,
    SAMPLE_CALLS,
    SAMPLE_CHARS,
    Capture,
    Pair,
)
from softprompt_serve.shadow.compare import compare
from softprompt_serve.shadow.types import Answer, Job

SAME = compare(answer(), answer(), wants_json=False)


def keep(capture: Capture, job: Job, user: Answer | None = None) -> None:
    capture.keep(job, user or answer(), answer(), SAME)


def ids(pairs: list[Pair]) -> list[str]:
    return [pair.request_id for pair in pairs]


def test_a_pair_says_who_answered() -> None:
    capture = Capture(5)
    keep(capture, job(cohort="regulated"))
    (pair,) = capture.of("support", 3)
    assert (pair.served, pair.candidate, pair.cohort) == ("v1", "v2", "regulated")


def test_no_more_than_asked_for_are_kept() -> None:
    capture = Capture(5)
    for number in range(100):
        keep(capture, job(f"r{number}"))
    assert len(capture.of("support", 3)) == 5


def test_every_pair_has_the_same_chance_wherever_it_comes() -> None:
    first = 0
    for trial in range(200):
        capture = Capture(10)
        for number in range(40):
            keep(capture, job(f"{trial}-{number}"))
        first += sum(int(i.split("-")[1]) < 20 for i in ids(capture.of("support", 3)))
    # 2,000 draws, half of them expected; 4 standard deviations without replacement
    assert abs(first - 1_000) < 4 * (2_000 * 0.25 * 30 / 39) ** 0.5


def test_the_latest_comes_first() -> None:
    capture = Capture(5)
    for number in range(3):
        keep(capture, job(f"r{number}"))
    assert ids(capture.of("support", 3)) == ["r2", "r1", "r0"]


def test_a_new_epoch_begins_with_nothing() -> None:
    capture = Capture(5)
    keep(capture, job("old", epoch=3))
    keep(capture, job("new", epoch=4))
    keep(capture, job("late", epoch=3))
    assert ids(capture.of("support", 4)) == ["new"]
    assert capture.of("support", 3) == []


def test_texts_are_cut() -> None:
    capture = Capture(5)
    calls = tuple(("name", "x" * 10_000) for _ in range(100))
    keep(capture, job(), answer("x" * 100_000, tool_calls=calls))
    (pair,) = capture.of("support", 3)
    assert (len(pair.user.text), pair.user.token_ids) == (SAMPLE_CHARS, ())
    assert len(pair.user.tool_calls) == SAMPLE_CALLS
    assert len(pair.user.tool_calls[0][1]) == SAMPLE_CHARS


def test_prompts_are_bounded_too() -> None:
    capture = Capture(1)
    for number in range(MAX_PROMPTS + 1):
        keep(capture, job(prompt=f"p{number}"))
    assert capture.of("p0", 3) == []
    assert ids(capture.of("p1", 3)) == ["r1"]
