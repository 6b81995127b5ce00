from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shadows import answer

from softprompt_serve.shadow.compare import (
    COMPARED_CHARS,
    compare,
    compare_aside,
    is_json,
    likelihood,
)

texts = st.text(max_size=60)


def test_the_same_text_is_exact_and_wholly_similar() -> None:
    pair = compare(answer("Hi there"), answer("Hi there"), wants_json=False)
    assert (pair.exact, pair.similarity, pair.word_similarity) == (True, 1.0, 1.0)


def test_two_empty_answers_are_the_same() -> None:
    pair = compare(answer(""), answer(""), wants_json=False)
    assert (pair.exact, pair.similarity, pair.word_similarity) == (True, 1.0, 1.0)


def test_an_empty_answer_is_not_similar_to_another() -> None:
    pair = compare(answer("Hi"), answer(""), wants_json=False)
    assert (pair.exact, pair.similarity, pair.word_similarity) == (False, 0.0, 0.0)


def test_similarity_is_one_less_the_share_of_characters_put_in_or_taken_out() -> None:
    pair = compare(answer("abcd"), answer("abxd"), wants_json=False)
    assert pair.similarity == 1 - 2 / 8  # one out, one in, of eight


def test_the_order_of_words_counts_for_characters_alone() -> None:
    pair = compare(answer("refund the order"), answer("the order refund"), wants_json=False)
    assert pair.similarity < 1.0
    assert pair.word_similarity == 1.0


@given(texts, texts)
def test_similarity_is_symmetric_and_a_share(one: str, other: str) -> None:
    pair = compare(answer(one), answer(other), wants_json=False)
    back = compare(answer(other), answer(one), wants_json=False)
    assert pair.similarity == pytest.approx(back.similarity)
    assert 0.0 <= pair.similarity <= 1.0
    assert 0.0 <= pair.word_similarity <= 1.0


def test_only_the_beginning_of_a_very_long_text_is_compared() -> None:
    same = "a" * COMPARED_CHARS
    pair = compare(answer(same + "b"), answer(same + "c" * 100_000), wants_json=False)
    assert (pair.exact, pair.similarity) == (False, 1.0)
    assert pair.length_delta == 99_999


def test_long_texts_compare_alike_in_their_thread() -> None:
    user, shadow = answer("one two three " * 1_000), answer("one three two " * 1_000)
    aside = asyncio.run(compare_aside(user, shadow, wants_json=True))
    assert aside == compare(user, shadow, wants_json=True)


def test_deltas_are_the_shadows_less_the_users() -> None:
    user = answer("four", output_tokens=10, ttft_seconds=0.5, e2e_seconds=2.0)
    shadow = answer("eight888", output_tokens=4, ttft_seconds=0.75, e2e_seconds=1.0)
    pair = compare(user, shadow, wants_json=False)
    assert (pair.length_delta, pair.token_delta) == (4, -6)
    assert (pair.ttft_delta, pair.e2e_delta) == (0.25, -1.0)


def test_a_time_that_is_not_known_has_no_delta() -> None:
    pair = compare(answer(ttft_seconds=None), answer(), wants_json=False)
    assert pair.ttft_delta is None


def test_how_they_ended_is_compared() -> None:
    pair = compare(answer(), answer(finish_reason="length"), wants_json=False)
    assert not pair.finish_equal


def test_answers_without_tool_calls_are_not_compared_by_them() -> None:
    assert compare(answer(), answer(), wants_json=False).tools_equal is None


@pytest.mark.parametrize(
    ("calls", "equal"),
    [
        ((("refund", '{"order": 7}'), ("mail", "{}")), True),
        ((("mail", "{}"), ("refund", '{"order": 7}')), True),  # their order has no meaning
        ((("refund", '{"order": 8}'), ("mail", "{}")), False),
        ((("repay", '{"order": 7}'), ("mail", "{}")), False),
        ((("refund", '{"order": 7}'),), False),
        ((), False),
    ],
)
def test_tool_calls_are_the_same_by_name_and_arguments(
    calls: tuple[tuple[str, str], ...], *, equal: bool
) -> None:
    user = answer(tool_calls=(("refund", '{"order": 7}'), ("mail", "{}")))
    assert compare(user, answer(tool_calls=calls), wants_json=False).tools_equal is equal


def test_json_is_looked_at_where_it_was_asked_for() -> None:
    user, shadow = answer('{"a": 1}'), answer('{"a": 1')
    assert compare(user, shadow, wants_json=True).json_valid == (True, False)
    assert compare(user, shadow, wants_json=False).json_valid is None


@pytest.mark.parametrize("text", ['{"a": [1, 2.5e3, null]}', "7", '"x"', " [] ", "9" * 10_000])
def test_is_json(text: str) -> None:
    assert is_json(text)


@pytest.mark.parametrize(
    "text", ["", "{", "NaN", "Here it is: {}", '{"a": Infinity}', "[" * 99_999]
)
def test_is_no_json(text: str) -> None:
    assert not is_json(text)


def test_divergence_is_the_mean_of_log_ratios() -> None:
    found = likelihood((-1.0, -0.5), (-1.5, -2.0))
    assert (found.divergence, found.surprise, found.tokens) == (1.0, 1.75, 2)


def test_divergence_estimates_kullback_leibler_of_served_from_candidate() -> None:
    served, candidate = (0.7, 0.2, 0.1), (0.4, 0.4, 0.2)
    expected = sum(p * math.log(p / q) for p, q in zip(served, candidate, strict=True))
    tokens = [token for token, p in enumerate(served) for _ in range(round(p * 1000))]
    found = likelihood(
        tuple(math.log(served[t]) for t in tokens), tuple(math.log(candidate[t]) for t in tokens)
    )
    assert found.divergence == pytest.approx(expected)


@pytest.mark.parametrize(
    ("served", "candidate"),
    [((), ()), ((-1.0,), (-1.0, -1.0)), ((-1.0,), (-math.inf,)), ((math.nan,), (-1.0,))],
)
def test_what_can_be_no_log_probabilities_of_one_answer_is_refused(
    served: tuple[float, ...], candidate: tuple[float, ...]
) -> None:
    with pytest.raises(ValueError, match="log-probabilit"):
        likelihood(served, candidate)
