"""Which requests can carry a prompt, and how a version's text enters one. Duck-typed requests."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from softprompt_serve.errors import BadRequest
from softprompt_serve.vllm_plugin.fields import field
from softprompt_serve.vllm_plugin.reference import KEY, SALT_PREFIX, is_reserved

if TYPE_CHECKING:
    from softprompt_serve.registry.snapshot import Version
    from softprompt_serve.router.choose import Decision
    from softprompt_serve.settings import Settings

_CANT_CARRY_ANYTHING = {
    "prompt_embeds": "a request can't bring embeddings of its own as well",
    "kv_transfer_params": "transferred tokens and KV blocks don't know the prompt",
}
"""Request fields that no version can be combined with, and why."""

_CANT_CARRY_ROWS = _CANT_CARRY_ANYTHING | {
    "use_beam_search": "beam search renders its own prompts",
    "echo": "echo would show placeholder tokens",
    "prompt_logprobs": "prompt log-probabilities would show placeholder tokens",
    "return_token_ids": "returned prompt ids would show placeholder tokens",
    "suffix": "fill-in-the-middle moves the prompt's start",
    "truncate_prompt_tokens": "truncation could cut virtual tokens",
    "mm_processor_kwargs": "a soft prompt can only be added to text",
}
"""The same for a version with virtual tokens."""


def refuse_forged(request: Any, settings: Settings) -> None:
    """Refuse what only this server may set, on any request.

    Raises:
        BadRequest: ``reserved_cache_salt``, ``reserved_vllm_xargs``,
            ``client_priority_disabled`` or ``raw_prompt_embeds_disabled``.
    """
    if is_reserved(field(request, "cache_salt")):
        msg = f"cache_salt must not begin with `{SALT_PREFIX}`; it is reserved."
        raise BadRequest(msg, code="reserved_cache_salt", param="cache_salt")
    if KEY in (field(request, "vllm_xargs") or {}):
        msg = f"vllm_xargs must not hold `{KEY}`; it is reserved."
        raise BadRequest(msg, code="reserved_vllm_xargs", param="vllm_xargs")
    if field(request, "priority") and not settings.allow_client_priority:
        msg = (
            "`priority` is not accepted from clients here; SOFTPROMPT_ALLOW_CLIENT_PRIORITY=true "
            "lets them choose their place in the queue."
        )
        raise BadRequest(msg, code="client_priority_disabled", param="priority")
    if settings.allow_raw_prompt_embeds:
        return
    if field(request, "prompt_embeds") is not None or _has_embeds_part(request):
        msg = (
            "Raw `prompt_embeds` are not accepted here; upload a version, or set "
            "SOFTPROMPT_ALLOW_RAW_PROMPT_EMBEDS=true."
        )
        raise BadRequest(msg, code="raw_prompt_embeds_disabled", param="prompt_embeds")


def _has_embeds_part(request: Any) -> bool:
    """Whether a chat message carries a ``prompt_embeds`` content part."""
    return any(
        isinstance(part, dict) and part.get("type") == "prompt_embeds"
        for message in field(request, "messages") or ()
        if isinstance(message, dict) and isinstance(message.get("content"), list)
        for part in message["content"]
    )


def check_request(request: Any, decision: Decision) -> None:
    """Refuse a request that can't carry this version.

    Raises:
        BadRequest: ``softprompt_unsupported_field`` naming the field and the reason.
    """
    version = decision.version
    if version.kind == "base":
        return
    fields = _CANT_CARRY_ROWS if version.learned else _CANT_CARRY_ANYTHING
    for name, reason in fields.items():
        value = field(request, name)
        if value is not None and value is not False:
            msg = f"`{name}` can't be combined with {version.label}: {reason}."
            raise BadRequest(msg, code="softprompt_unsupported_field", param=name)


def check_length(visible: int, request: Any, version: Version, max_model_len: int) -> None:
    """Virtual tokens count towards the context length.

    Raises:
        BadRequest: ``context_length_exceeded``.
    """
    asked = _max_tokens(request)
    total = version.virtual_tokens + visible + (asked or 1)
    if total > max_model_len:
        msg = (
            f"This model's context length is {max_model_len} tokens; {visible} of the request, "
            f"{version.virtual_tokens} virtual ones of {version.label} and "
            f"{asked or 1} to generate make {total}."
        )
        raise BadRequest(msg, code="context_length_exceeded", param="messages")


def _max_tokens(request: Any) -> int | None:
    for name in ("max_completion_tokens", "max_output_tokens", "max_tokens"):
        value = field(request, name)
        if value is not None:
            return int(value)
    return None


def asked_of(request: Any) -> str:
    """What the client asked, as text: a prompt as it is, messages and inputs as JSON."""
    for name in ("messages", "input", "prompt"):
        value = field(request, name)
        if value is not None:
            return value if isinstance(value, str) else json.dumps(value, default=_plain)
    return ""


def _plain(value: Any) -> Any:
    return value.model_dump(exclude_none=True) if hasattr(value, "model_dump") else str(value)


def add_text(request: Any, version: Version) -> None:
    """Put the version's text before the user's own: as system message, instructions or prefix.

    Changes ``request`` in place, because vLLM's handlers go on with the same object.

    Raises:
        BadRequest: ``text_needs_text`` for a completion of token ids.
    """
    if version.text is None:
        return
    if hasattr(request, "messages"):
        request.messages = _with_system(list(request.messages), version.text)
    elif hasattr(request, "instructions"):
        own = request.instructions
        request.instructions = version.text if not own else f"{version.text}\n\n{own}"
    else:
        request.prompt = _prefixed(request.prompt, version)


def _with_system(messages: list[Any], text: str) -> list[Any]:
    first = messages[0] if messages else None
    if not isinstance(first, dict) or first.get("role") not in {"system", "developer"}:
        return [{"role": "system", "content": text}, *messages]
    own = first.get("content")
    content: Any
    if isinstance(own, list):
        content = [{"type": "text", "text": f"{text}\n\n"}, *own]
    else:
        content = f"{text}\n\n{own}" if own else text
    return [{**first, "content": content}, *messages[1:]]


def _prefixed(prompt: Any, version: Version) -> Any:
    match prompt:
        case str():
            return f"{version.text}\n\n{prompt}"
        case [*parts] if parts and all(isinstance(part, str) for part in parts):
            return [f"{version.text}\n\n{part}" for part in parts]
    msg = f"{version.label} adds a text, so the prompt must be text too, not token ids."
    raise BadRequest(msg, code="text_needs_text", param="prompt")
