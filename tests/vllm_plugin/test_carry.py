"""Which requests can carry a prompt, and how a version's text enters one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from softprompt_serve.errors import BadRequest
from softprompt_serve.registry.snapshot import Version
from softprompt_serve.router.choose import Decision
from softprompt_serve.settings import Settings
from softprompt_serve.vllm_plugin.carry import (
    add_text,
    asked_of,
    check_length,
    check_request,
    refuse_forged,
)


def version(kind: Any = "soft", *, text: str | None = None, rows: int = 20) -> Version:
    return Version(
        prompt="support",
        version="v2",
        digest="ab" * 32,
        kind=kind,
        virtual_tokens=rows if kind == "soft" else 0,
        hidden_size=8 if kind == "soft" else 0,
        dtype="float32" if kind == "soft" else None,
        text=text,
        wanted=True,
        created_at="2026-01-01T00:00:00Z",
        created_by=None,
    )


def decision(kind: Any = "soft") -> Decision:
    return Decision(version(kind), "production", "production", 1)


def request(**fields: Any) -> Any:
    return SimpleNamespace(**fields)


EMBEDS_PART = [{"role": "user", "content": [{"type": "prompt_embeds", "data": "x"}]}]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"cache_salt": "sp:"}, "reserved_cache_salt"),
        ({"cache_salt": "sp:" + "ab" * 16}, "reserved_cache_salt"),
        ({"vllm_xargs": {"softprompt": "v2"}}, "reserved_vllm_xargs"),
        ({"vllm_xargs": {"softprompt": None}}, "reserved_vllm_xargs"),
        ({"prompt_embeds": b"x"}, "raw_prompt_embeds_disabled"),
        ({"prompt_embeds": ""}, "raw_prompt_embeds_disabled"),
        ({"messages": EMBEDS_PART}, "raw_prompt_embeds_disabled"),
    ],
)
def test_what_only_the_server_may_set_is_refused(fields: dict[str, Any], code: str) -> None:
    with pytest.raises(BadRequest) as caught:
        refuse_forged(request(**fields), Settings())
    assert caught.value.code == code


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"cache_salt": None, "vllm_xargs": None, "prompt_embeds": None},
        {"cache_salt": "mine", "vllm_xargs": {"theirs": 1}},
        {"messages": [{"role": "user", "content": "hello"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]},
        {"messages": [object()]},
    ],
)
def test_an_ordinary_request_passes(fields: dict[str, Any]) -> None:
    refuse_forged(request(**fields), Settings())


@pytest.mark.parametrize("fields", [{"prompt_embeds": b"x"}, {"messages": EMBEDS_PART}])
def test_raw_embeddings_pass_where_a_setting_allows_them(fields: dict[str, Any]) -> None:
    refuse_forged(request(**fields), Settings(allow_raw_prompt_embeds=True))


SOFT_ONLY = {
    "use_beam_search": True,
    "echo": True,
    "prompt_logprobs": 0,
    "return_token_ids": True,
    "suffix": "after",
    "truncate_prompt_tokens": 5,
    "mm_processor_kwargs": {},
}
ANY = {"prompt_embeds": b"x", "kv_transfer_params": {"do_remote_prefill": True}}


@pytest.mark.parametrize("name", SOFT_ONLY | ANY)
def test_what_can_not_carry_a_soft_prompt_is_refused_by_name(name: str) -> None:
    with pytest.raises(BadRequest, match=f"`{name}` can't be combined") as caught:
        check_request(request(**{name: (SOFT_ONLY | ANY)[name]}), decision())
    assert (caught.value.code, caught.value.param) == ("softprompt_unsupported_field", name)


@pytest.mark.parametrize("name", SOFT_ONLY | ANY)
@pytest.mark.parametrize("unset", [None, False])
def test_a_field_that_is_not_set_is_no_reason_to_refuse(name: str, unset: Any) -> None:
    check_request(request(**{name: unset}), decision())


@pytest.mark.parametrize("name", SOFT_ONLY)
def test_a_hard_version_goes_with_what_shows_or_cuts_tokens(name: str) -> None:
    check_request(request(**{name: SOFT_ONLY[name]}), decision("hard"))


@pytest.mark.parametrize("name", ANY)
def test_a_hard_version_needs_a_prompt_of_text(name: str) -> None:
    with pytest.raises(BadRequest):
        check_request(request(**{name: ANY[name]}), decision("hard"))


def test_a_base_version_goes_with_everything() -> None:
    check_request(request(**SOFT_ONLY, **ANY), decision("base"))


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
def test_virtual_visible_and_generated_tokens_must_fit_the_context(field: str) -> None:
    check_length(70, request(**{field: 10}), version(), 100)
    with pytest.raises(BadRequest, match="make 101") as caught:
        check_length(71, request(**{field: 10}), version(), 100)
    assert caught.value.code == "context_length_exceeded"


def test_without_a_wish_one_generated_token_must_fit() -> None:
    check_length(79, request(max_tokens=None), version(), 100)
    with pytest.raises(BadRequest):
        check_length(80, request(max_tokens=None), version(), 100)


def test_the_newer_name_of_a_wish_counts() -> None:
    check_length(79, request(max_completion_tokens=1, max_tokens=50), version(), 100)


HARD = version("hard", text="Be brief.")


def test_a_text_becomes_the_system_message() -> None:
    ours = request(messages=[{"role": "user", "content": "Hello"}])
    add_text(ours, HARD)
    assert ours.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
    ]


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_text_comes_before_the_users_own_system_message(role: str) -> None:
    ours = request(messages=[{"role": role, "content": "Speak French."}])
    add_text(ours, HARD)
    assert ours.messages == [{"role": role, "content": "Be brief.\n\nSpeak French."}]


def test_a_text_comes_before_a_system_message_in_parts() -> None:
    own = [{"type": "text", "text": "Speak French."}]
    ours = request(messages=[{"role": "system", "content": own}])
    add_text(ours, HARD)
    assert ours.messages[0]["content"] == [{"type": "text", "text": "Be brief.\n\n"}, *own]


@pytest.mark.parametrize("empty", ["", None])
def test_an_empty_system_message_becomes_the_text(empty: str | None) -> None:
    ours = request(messages=[{"role": "system", "content": empty}])
    add_text(ours, HARD)
    assert ours.messages == [{"role": "system", "content": "Be brief."}]


def test_a_conversation_without_messages_gets_one() -> None:
    ours = request(messages=[])
    add_text(ours, HARD)
    assert ours.messages == [{"role": "system", "content": "Be brief."}]


def test_the_users_own_objects_are_not_changed() -> None:
    own = [{"role": "system", "content": "Speak French."}]
    add_text(request(messages=own), HARD)
    assert own == [{"role": "system", "content": "Speak French."}]


@pytest.mark.parametrize(
    ("own", "expected"), [(None, "Be brief."), ("Speak French.", "Be brief.\n\nSpeak French.")]
)
def test_a_text_comes_before_a_responses_instructions(own: str | None, expected: str) -> None:
    ours = request(instructions=own, input="Hello")
    add_text(ours, HARD)
    assert ours.instructions == expected


def test_a_text_comes_before_a_completions_prompt() -> None:
    ours = request(prompt="Hello")
    add_text(ours, HARD)
    assert ours.prompt == "Be brief.\n\nHello"


def test_a_text_comes_before_each_of_several_prompts() -> None:
    ours = request(prompt=["one", "two"])
    add_text(ours, HARD)
    assert ours.prompt == ["Be brief.\n\none", "Be brief.\n\ntwo"]


@pytest.mark.parametrize("prompt", [[1, 2], [[1], [2]], [], None])
def test_a_text_can_not_come_before_token_ids(prompt: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        add_text(request(prompt=prompt), HARD)
    assert caught.value.code == "text_needs_text"


def test_a_soft_versions_text_is_added_too() -> None:
    ours = request(prompt="Hello")
    add_text(ours, version("soft", text="Be brief."))
    assert ours.prompt == "Be brief.\n\nHello"


@pytest.mark.parametrize("prompt", ["Hello", [1, 2]])
def test_without_a_text_the_request_stays_as_it_is(prompt: Any) -> None:
    ours = request(prompt=prompt)
    add_text(ours, version())
    assert ours.prompt == prompt


class Part:
    """What vLLM makes of a message."""

    def model_dump(self, *, exclude_none: bool) -> dict[str, str]:
        assert exclude_none
        return {"role": "user"}


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({"prompt": "Hi"}, "Hi"),
        ({"input": "Hi", "prompt": None}, "Hi"),
        ({"prompt": ["a", "b"]}, '["a", "b"]'),
        ({"messages": [{"role": "user", "content": "Hi"}]}, '[{"role": "user", "content": "Hi"}]'),
        ({"messages": [Part()]}, '[{"role": "user"}]'),
        ({"messages": [object]}, "[\"<class 'object'>\"]"),
        ({}, ""),
    ],
)
def test_what_a_client_asked_is_told_as_text(fields: dict[str, Any], asked: str) -> None:
    assert asked_of(SimpleNamespace(**fields)) == asked
