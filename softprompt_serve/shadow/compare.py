"""How a shadow's answer differs from the user's, and how likely it finds the user's. Pure.

Deltas are the shadow's minus the user's.
"""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rapidfuzz import fuzz, process
from rapidfuzz.distance import Indel

if TYPE_CHECKING:
    from softprompt_serve.shadow.types import Answer

COMPARED_CHARS: Final = 20_000
"""Of each text; the cost of a similarity grows with the product of both lengths."""

QUICK_CHARS: Final = 2_000
"""Of both texts together: what is compared in place, in a fraction of a millisecond."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One pair.

    Attributes:
        exact: whether the texts are the same, character by character.
        similarity: 1 - Indel distance / both lengths, of the first ``COMPARED_CHARS``; 0 … 1.
        word_similarity: the same of their sets of words, whatever the order; 0 … 1.
        length_delta: characters.
        token_delta: generated tokens.
        ttft_delta: seconds, or None if either is unknown.
        e2e_delta: seconds.
        finish_equal: whether they ended for the same reason.
        tools_equal: whether they ask for the same tool calls; None if neither asks for any.
        json_valid: the user's and the shadow's text are JSON; None if none was asked for.
    """

    exact: bool
    similarity: float
    word_similarity: float
    length_delta: int
    token_delta: int
    ttft_delta: float | None
    e2e_delta: float
    finish_equal: bool
    tools_equal: bool | None
    json_valid: tuple[bool, bool] | None


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How likely the candidate finds the answer that the user got.

    Attributes:
        divergence: mean over the answer's tokens of ln p_served - ln p_candidate, in nats. If the
            answer was sampled at temperature 1 from the whole distribution, its mean over answers
            estimates the Kullback-Leibler divergence KL(served || candidate) per token; sampled in
            another way it still tells how much less likely the candidate finds such answers. Of
            one answer it may be negative.
        surprise: the candidate's mean negative log-likelihood, nats per token.
        tokens: how many were scored.
    """

    divergence: float
    surprise: float
    tokens: int


async def compare_aside(user: Answer, shadow: Answer, *, wants_json: bool) -> Comparison:
    """As :func:`compare`; long texts in a thread, where most of it runs without the GIL."""
    if len(user.text) + len(shadow.text) <= QUICK_CHARS:
        return compare(user, shadow, wants_json=wants_json)
    return await asyncio.to_thread(compare, user, shadow, wants_json=wants_json)


def compare(user: Answer, shadow: Answer, *, wants_json: bool) -> Comparison:
    """Hold a shadow's answer against the user's."""
    exact = user.text == shadow.text
    similarity, word_similarity = (1.0, 1.0) if exact else _similarities(user.text, shadow.text)
    ttft_delta = None
    if user.ttft_seconds is not None and shadow.ttft_seconds is not None:
        ttft_delta = shadow.ttft_seconds - user.ttft_seconds
    return Comparison(
        exact=exact,
        similarity=similarity,
        word_similarity=word_similarity,
        length_delta=len(shadow.text) - len(user.text),
        token_delta=shadow.output_tokens - user.output_tokens,
        ttft_delta=ttft_delta,
        e2e_delta=shadow.e2e_seconds - user.e2e_seconds,
        finish_equal=shadow.finish_reason == user.finish_reason,
        # The order of calls that one answer asks for has no meaning.
        tools_equal=(
            sorted(shadow.tool_calls) == sorted(user.tool_calls)
            if shadow.tool_calls or user.tool_calls
            else None
        ),
        json_valid=(is_json(user.text), is_json(shadow.text)) if wants_json else None,
    )


def likelihood(served: tuple[float, ...], candidate: tuple[float, ...]) -> Likelihood:
    """From the log-probabilities that both versions give to the tokens of the user's answer.

    Raises:
        ValueError: there are none, not as many of each, or one is no finite number.
    """
    if not served or len(served) != len(candidate):
        msg = f"{len(served)} and {len(candidate)} log-probabilities of one answer"
        raise ValueError(msg)
    total, surprise = math.fsum(served) - math.fsum(candidate), -math.fsum(candidate)
    if not math.isfinite(total) or not math.isfinite(surprise):
        msg = "a log-probability is no finite number"
        raise ValueError(msg)
    return Likelihood(total / len(served), surprise / len(served), len(served))


def is_json(text: str) -> bool:
    """Whether a text is one JSON value (RFC 8259: no NaN)."""
    try:
        # Numbers stay text: how large they are does not matter, and costs time.
        json.loads(text, parse_int=str, parse_float=str, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return False
    return True


def _no_json(constant: str) -> None:
    raise ValueError(constant)


def _similarities(user: str, shadow: str) -> tuple[float, float]:
    """Of characters and of sets of words, 0 … 1.

    Called one by one the scorers keep the GIL; ``cpdist`` gives it up while it works.
    """
    pair = [user[:COMPARED_CHARS]], [shadow[:COMPARED_CHARS]]
    characters = process.cpdist(*pair, scorer=Indel.normalized_similarity, dtype=float)
    words = process.cpdist(*pair, scorer=fuzz.token_set_ratio, dtype=float)
    return float(characters[0]), float(words[0]) / 100.0
