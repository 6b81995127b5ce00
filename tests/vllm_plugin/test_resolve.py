"""What the router learns of a request: who asks, its labels, its visible tokens."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.datastructures import Headers

from softprompt_serve.errors import BadRequest
from softprompt_serve.router.ask import Labels
from softprompt_serve.server.scope import RequestScope
from softprompt_serve.testing import settings_for_tests
from softprompt_serve.vllm_plugin.inputs import counting
from softprompt_serve.vllm_plugin.resolve import ask_of, sticky_key

pytestmark = pytest.mark.anyio

LABELS = Labels(
    cohorts=("regulated",),
    routes=("planner",),
    headers=frozenset({"x-tenant"}),
    long_context_tokens=100,
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def scope(**headers: str) -> RequestScope:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return RequestScope("/v1/chat/completions", Headers(named))


def request(**fields: Any) -> Any:
    return SimpleNamespace(**({"request_id": "random", "tools": None} | fields))


@pytest.mark.parametrize(
    ("headers", "fields", "key"),
    [
        (
            {"x_softprompt_sticky_key": "header"},
            {"prompt_cache_key": "a", "safety_identifier": "b", "user": "c"},
            "header",
        ),
        ({}, {"prompt_cache_key": "a", "safety_identifier": "b", "user": "c"}, "a"),
        ({}, {"safety_identifier": "b", "user": "c"}, "b"),
        ({}, {"user": "c", "conversation": "d"}, "c"),
        ({}, {"conversation": "d"}, "d"),
        ({}, {"conversation": {"id": "e"}}, "e"),
        ({"x_request_id": "f"}, {}, "f"),
        ({}, {}, "random"),
        ({}, {"user": "", "prompt_cache_key": 7}, "random"),
    ],
)
def test_the_sticky_key_is_the_first_that_a_request_has(
    headers: dict[str, str], fields: dict[str, Any], key: str
) -> None:
    assert sticky_key(request(**fields), scope(**headers)) == key


def test_anthropics_user_comes_before_the_conversation() -> None:
    given = scope()
    given.user = "someone"
    assert sticky_key(request(conversation="d"), given) == "someone"


def test_declared_labels_are_taken_and_undeclared_ones_are_other() -> None:
    given = scope(x_softprompt_cohort="regulated", x_softprompt_route="unheard-of")
    ask = ask_of(request(), given, LABELS, None)
    assert (ask.cohort, ask.route) == ("regulated", "other")


def test_only_headers_on_the_list_are_looked_at() -> None:
    given = scope(x_tenant="acme", authorization="Bearer secret")
    assert ask_of(request(), given, LABELS, None).headers == {"x-tenant": "acme"}


def test_a_request_with_tools_and_many_tokens_is_in_both_derived_cohorts() -> None:
    ask = ask_of(request(tools=[{}]), scope(), LABELS, 100)
    assert ask.cohort == "long_context"
    assert ask.in_cohort("tool_calling")
    assert ask.visible_tokens == 100


class Renderer:
    """vLLM's, as far as counting goes."""

    def __init__(self, *lengths: int) -> None:
        self.inputs = [{"prompt_token_ids": [0] * length} for length in lengths]
        self.seen: list[Any] = []

    async def render_chat(self, given: Any) -> Any:
        self.seen.append(given)
        return ([], self.inputs) if self.inputs else SimpleNamespace(error="no")

    async def render_completion(self, given: Any) -> Any:
        self.seen.append(given)
        return self.inputs

    async def render_responses(self, given: Any) -> Any:
        self.seen.append(given)
        return SimpleNamespace(engine_input=self.inputs[0])


class Request(SimpleNamespace):
    def model_copy(self) -> Request:
        return Request(**vars(self))


@pytest.mark.parametrize("field", ["messages", "input", "prompt"])
async def test_tokens_are_counted_by_the_handlers_own_rendering(field: str, tmp_path: Path) -> None:
    count = counting(Renderer(7), settings_for_tests(tmp_path))
    assert await count(Request(**{field: "Hello"})) == 7


async def test_a_batch_counts_as_its_longest_input(tmp_path: Path) -> None:
    count = counting(Renderer(3, 9, 5), settings_for_tests(tmp_path))
    assert await count(Request(prompt=["a", "b", "c"])) == 9


async def test_what_cannot_be_rendered_counts_nothing(tmp_path: Path) -> None:
    count = counting(Renderer(), settings_for_tests(tmp_path))
    assert await count(Request(messages="Hello")) == 0


async def test_counting_leaves_the_request_alone(tmp_path: Path) -> None:
    renderer = Renderer(1)
    ours = Request(messages="Hello")
    await counting(renderer, settings_for_tests(tmp_path))(ours)
    assert renderer.seen[0] is not ours


async def test_a_forged_request_is_refused_before_it_is_rendered(tmp_path: Path) -> None:
    renderer = Renderer(1)
    with pytest.raises(BadRequest):
        await counting(renderer, settings_for_tests(tmp_path))(
            Request(messages="Hello", cache_salt="sp:forged")
        )
    assert renderer.seen == []
