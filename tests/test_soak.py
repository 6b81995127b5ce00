"""What tells a wrong answer from a right one, and a leak from a full cache."""

from __future__ import annotations

import asyncio
import json
import os
from types import SimpleNamespace

import httpx
import pytest
import torch
from fire.memory import Sample, Watch, slope
from fire.oracle import AT_ONCE, Input, Oracle, Step, compare, of_chat, of_completion


def step(token: str, **top: float) -> Step:
    return Step(token, top)


A = step("a", a=-0.1, b=-3.0, c=-5.0)
B = step("b", a=-4.0, b=-0.2, c=-5.0)
TIED = {"a": -0.7, "b": -0.701, "c": -5.0}


def test_the_same_answer_is_equal() -> None:
    assert compare([A, B], [A, B]) == "equal"


def test_rounding_in_the_log_probabilities_is_no_difference() -> None:
    assert compare([step("a", a=-0.1004, b=-3.002, c=-5.003)], [A]) == "equal"


def test_another_distribution_is_a_mismatch_though_the_token_is_the_same() -> None:
    assert compare([step("a", a=-0.3, b=-2.0, c=-5.0)], [A]) == "mismatch"


def test_another_token_of_the_same_distribution_is_a_tie() -> None:
    assert compare([Step("a", TIED), B], [Step("b", TIED), A]) == "tie"


def test_a_difference_after_equal_tokens_is_a_mismatch() -> None:
    assert compare([A, A], [A, B]) == "mismatch"


def test_an_answer_that_ends_early_is_a_mismatch() -> None:
    assert compare([A], [A, B]) == "mismatch"
    assert compare([A, B], [A]) == "mismatch"


def test_a_likely_token_that_only_one_knows_is_a_mismatch() -> None:
    assert compare([step("a", a=-0.1, x=-2.5, b=-3.0)], [A]) == "mismatch"


def test_the_last_places_may_be_anybodys_who_is_as_unlikely() -> None:
    assert compare([step("a", a=-0.1, b=-3.0, x=-5.001)], [A]) == "equal"


def test_steps_are_read_alike_from_chats_and_completions() -> None:
    completion = {"tokens": ["token_id:5"], "top_logprobs": [{"token_id:5": -0.1}]}
    top = [{"token": "token_id:5", "logprob": -0.1}]
    chat = {"content": [{"token": "token_id:5", "logprob": -0.1, "top_logprobs": top}]}
    assert of_completion(completion) == of_chat(chat)


def test_a_native_answer_stands_for_all_shorter_ones() -> None:
    asked: list[int] = []

    def serve(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content)["max_tokens"])
        told = {"tokens": ["a"] * asked[-1], "top_logprobs": [{"a": -0.1}] * asked[-1]}
        return httpx.Response(200, json={"choices": [{"logprobs": told}]})

    async def ask() -> list[int]:
        transport = httpx.MockTransport(serve)
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            oracle = Oracle(client, "base", SimpleNamespace(table=torch.zeros(9, 4)))
            what = Input("digest", (1, 2, 3), (("temperature", 0),))
            counts = (2, AT_ONCE, AT_ONCE + 9, AT_ONCE, AT_ONCE + 9, 1)
            return [len(await oracle.answer(what, count, None)) for count in counts]

    assert asyncio.run(ask()) == [2, AT_ONCE, AT_ONCE + 9, AT_ONCE, AT_ONCE + 9, 1]
    assert asked == [AT_ONCE, AT_ONCE + 9]


def samples(*rss: float) -> list[Sample]:
    return [Sample(10.0 * number, value, 1, 1) for number, value in enumerate(rss)]


def test_what_only_fills_at_the_beginning_does_not_leak() -> None:
    assert slope(samples(10, 60, *[100.0] * 10)) == pytest.approx(0.0)


def test_a_leak_has_a_slope() -> None:
    assert slope(samples(*[100.0 + number for number in range(20)])) == pytest.approx(360.0)


def test_a_process_is_seen_with_its_memory_and_files() -> None:
    watch = Watch(os.getsid(0))
    watch.look(1.0)
    mine = next(found for name, found in watch.samples.items() if name.endswith(f" {os.getpid()}"))
    assert mine[0].rss_mib > 10
    assert mine[0].threads >= 1
    assert mine[0].files >= 3
