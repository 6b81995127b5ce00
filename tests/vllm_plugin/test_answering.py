"""An answer is followed without being changed, whichever way vLLM cuts it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from vllm.sampling_params import RequestOutputKind

from softprompt_serve.server.scope import RequestScope
from softprompt_serve.vllm_plugin.answering import Answering, Heard

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = pytest.mark.anyio

Kind = RequestOutputKind


def choice(index: int, ids: list[int], text: str, reason: str | None = None) -> Any:
    return SimpleNamespace(index=index, token_ids=ids, text=text, finish_reason=reason)


def output(*choices: Any, finished: bool = False, cached: int = 0) -> Any:
    return SimpleNamespace(
        outputs=list(choices), finished=finished, metrics=None, num_cached_tokens=cached
    )


CUTS = {
    Kind.DELTA: [
        output(choice(0, [1], "a")),
        output(choice(1, [7], "x")),
        output(choice(0, [2, 3], "bc", "stop"), choice(1, [8], "y", "length"), finished=True),
    ],
    Kind.CUMULATIVE: [
        output(choice(0, [1], "a"), choice(1, [7], "x")),
        output(
            choice(0, [1, 2, 3], "abc", "stop"), choice(1, [7, 8], "xy", "length"), finished=True
        ),
    ],
    Kind.FINAL_ONLY: [
        output(
            choice(0, [1, 2, 3], "abc", "stop"), choice(1, [7, 8], "xy", "length"), finished=True
        ),
    ],
}


@pytest.mark.parametrize("kind", CUTS, ids=lambda kind: kind.name)
def test_the_first_choice_is_kept_and_all_are_counted(kind: Any) -> None:
    heard = Heard(kind, keep=True)
    for part in CUTS[kind]:
        heard.hear(part)
    assert heard.tokens == 5
    assert "".join(heard.text) == "abc"
    assert heard.token_ids == [1, 2, 3]
    assert heard.finish_reason == "stop"


def test_nothing_is_kept_of_a_request_that_was_not_sampled() -> None:
    heard = Heard(Kind.DELTA, keep=False)
    heard.hear(CUTS[Kind.DELTA][0])
    assert heard.text == []
    assert heard.tokens == 1


class Pending:
    def __init__(self) -> None:
        self.said: list[Any] = []

    def answered(self, answer: Any) -> None:
        self.said.append(answer)

    def dropped(self) -> None:
        self.said.append("dropped")


class Shadows:
    """Notes what it is told; sheds if it is told to."""

    def __init__(self, *, sheds: bool = False) -> None:
        self.pending = Pending()
        self.begun = 0
        self.in_flight = 0
        self.sheds = sheds

    def begin(self, _copy: Any, _answering: Answering) -> Pending | None:
        self.begun += 1
        return None if self.sheds else self.pending

    def user_came(self) -> None:
        self.in_flight += 1

    def user_left(self) -> None:
        self.in_flight -= 1

    def tool_calls(self, _text: str, _copy: Any) -> tuple[tuple[str, str], ...]:
        return (("look", "{}"),)


async def stream(parts: list[Any], error: Exception | None = None) -> AsyncGenerator[Any, None]:
    for part in parts:
        yield part
    if error is not None:
        raise error


def answering(shadows: Any, *, sampled: bool = True) -> tuple[Answering, RequestScope]:
    scope = RequestScope("/v1/chat/completions")
    scope.copy = "a copy" if sampled else None
    prompt = {"prompt_token_ids": [5, 6, 7]}
    params = SimpleNamespace(output_kind=Kind.DELTA)
    return Answering(scope, prompt, params, "r", shadows), scope


async def test_outputs_pass_as_they_are_and_are_noted() -> None:
    followed, scope = answering(None)
    parts = CUTS[Kind.DELTA]
    assert [part async for part in followed.follow(stream(parts))] == parts
    assert scope.record.visible_tokens == 3
    assert scope.record.output_tokens == 5
    assert scope.record.finish_reasons == ["stop", "length"]


async def test_a_sampled_answer_is_offered_once_and_completed() -> None:
    shadows = Shadows()
    followed, scope = answering(shadows)
    assert scope.copy is None  # a later call of the same request is not copied again
    async for _ in followed.follow(stream(CUTS[Kind.DELTA])):
        assert shadows.in_flight == 1
    (answer,) = shadows.pending.said
    assert shadows.begun == 1
    assert shadows.in_flight == 0
    assert (answer.text, answer.token_ids, answer.finish_reason) == ("abc", (1, 2, 3), "stop")
    assert answer.output_tokens == 3
    assert answer.tool_calls == (("look", "{}"),)


async def test_a_copy_that_was_shed_is_not_offered_again() -> None:
    shadows = Shadows(sheds=True)
    followed, _ = answering(shadows)
    _ = [part async for part in followed.follow(stream(CUTS[Kind.DELTA]))]
    assert shadows.begun == 1
    assert shadows.pending.said == []


async def test_a_request_that_was_not_sampled_is_not_offered() -> None:
    shadows = Shadows()
    followed, _ = answering(shadows, sampled=False)
    _ = [part async for part in followed.follow(stream(CUTS[Kind.DELTA]))]
    assert shadows.begun == 0


async def test_an_answer_that_fails_drops_its_pair() -> None:
    shadows = Shadows()
    followed, _ = answering(shadows)
    with pytest.raises(RuntimeError):
        _ = [p async for p in followed.follow(stream(CUTS[Kind.DELTA][:1], RuntimeError()))]
    assert shadows.pending.said == ["dropped"]
    assert shadows.in_flight == 0


async def test_a_client_that_goes_away_drops_its_pair() -> None:
    shadows = Shadows()
    followed, _ = answering(shadows)
    left = followed.follow(stream(CUTS[Kind.DELTA]))
    await anext(left)
    await left.aclose()
    assert shadows.pending.said == ["dropped"]
    assert shadows.in_flight == 0


class Telling:
    """A span that takes texts, or does not."""

    def __init__(self, *, wants_content: bool) -> None:
        self.wants_content = wants_content
        self.told: list[tuple[str, str]] = []

    def content(self, kind: str, text: str) -> None:
        self.told.append((kind, text))


@pytest.mark.parametrize("wants", [True, False])
async def test_a_span_is_told_the_answer_only_if_it_wants_it(*, wants: bool) -> None:
    scope, span = RequestScope(), Telling(wants_content=wants)
    scope.span = span  # type: ignore[assignment]
    params = SimpleNamespace(output_kind=Kind.DELTA)
    followed = Answering(scope, {"prompt_token_ids": [5]}, params, "r", None)
    async for _ in followed.follow(stream(CUTS[Kind.DELTA])):
        pass
    assert span.told == ([("output", followed_text())] if wants else [])


def followed_text() -> str:
    """The first choice of the cuts above."""
    return "".join(c.text for part in CUTS[Kind.DELTA] for c in part.outputs if c.index == 0)
