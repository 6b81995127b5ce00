"""PEFT adapters: which are accepted, and which tensor of theirs is the prompt.

PEFT writes ``adapter_config.json`` and ``adapter_model.safetensors``. For prompt tuning and
P-Tuning its ``save_pretrained`` stores one tensor, ``prompt_embeddings``, with the encoder
already folded. A checkpoint of the encoder itself (``embedding.weight`` with ``mlp_head.*`` and,
for LSTM, ``lstm_head.*``) is folded by ``encoder.py``. Prefix tuning is alike, with
``transform.*`` for an encoder, and laid out layer by layer by ``prefix.py``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NoReturn

from softprompt_serve.artifact.checks import check_shape
from softprompt_serve.artifact.encoder import EMBEDDING, EncoderError, fold_encoder
from softprompt_serve.artifact.prefix import LayoutError, by_layer, project
from softprompt_serve.artifact.tensors import PROMPT, Stored, listed, only
from softprompt_serve.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from softprompt_serve.artifact.checks import Limits

CONFIG_NAME: Final = "adapter_config.json"
WEIGHTS_NAME: Final = "adapter_model.safetensors"
FOLDED: Final = PROMPT
MAX_CONFIG_BYTES: Final = 1024 * 1024
# Facts worth keeping for the release record and the base-model check.
DECLARED: Final = (
    "peft_type",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "task_type",
    "num_virtual_tokens",
    "token_dim",
    "num_transformer_submodules",
    "prompt_tuning_init",
    "encoder_reparameterization_type",
    "encoder_hidden_size",
    "num_layers",
    "num_attention_heads",
)
_COUNTS: Final = (
    "num_virtual_tokens",
    "token_dim",
    "num_transformer_submodules",
    "encoder_hidden_size",
    "num_layers",
    "num_attention_heads",
)
# What a type's encoder is called in its weights, where they may come unfolded.
_ENCODERS: Final = {
    "P_TUNING": "mlp_head.* (and lstm_head.*)",
    "PREFIX_TUNING": "transform.* if there is a projection",
}
# A cartridge is a prefix that was trained otherwise; PEFT saves and serves it alike.
_PREFIXES: Final = ("PREFIX_TUNING", "CARTRIDGE")
_TYPES: Final = ("PROMPT_TUNING", "P_TUNING", *_PREFIXES)


def parse_config(data: bytes) -> dict[str, Any]:
    """The declared facts of an ``adapter_config.json``: those of ``DECLARED`` it has.

    Raises:
        BadRequest: ``artifact_bad_peft_config`` or ``artifact_unsupported_peft_type``.
    """
    if len(data) > MAX_CONFIG_BYTES:
        _bad(f"{CONFIG_NAME} has {len(data)} bytes; at most {MAX_CONFIG_BYTES} are accepted.")
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        _bad(f"{CONFIG_NAME} is not JSON: {error}.", error)
    if not isinstance(config, dict):
        _bad(f"{CONFIG_NAME} must hold a JSON object, not {type(config).__name__}.")
    declared = {key: config[key] for key in DECLARED if config.get(key) is not None}
    for key, value in declared.items():
        count = key in _COUNTS
        if count and (type(value) is not int or value < 1):
            _bad(f"{key} in {CONFIG_NAME} must be a positive integer, not {value!r}.")
        if not count and not isinstance(value, str):
            _bad(f"{key} in {CONFIG_NAME} must be a string, not {value!r}.")
    _check_type(declared.get("peft_type"))
    if declared.get("num_transformer_submodules", 1) != 1:
        _bad(
            "The adapter is for an encoder-decoder model (num_transformer_submodules "
            f"{declared['num_transformer_submodules']}); expected a causal language model's."
        )
    return declared


def fold(
    tensors: dict[str, Stored], declared: Mapping[str, Any], limits: Limits
) -> tuple[str, Stored]:
    """The adapter's one tensor and its name, folded if it wasn't.

    It is ``[n, hidden_size]``, or ``[layers, 2, n, kv_heads, head_dim]`` of a prefix.

    Raises:
        BadRequest: ``artifact_several_tensors``, ``artifact_unknown_dtype``, those of
            ``check_shape``, or ``artifact_bad_peft_config`` (weights that don't fit the
            configuration).
        TooLarge: ``upload_too_large``, of a prefix that would have too many bytes once folded.
    """
    kind = declared["peft_type"]
    if kind in _ENCODERS and FOLDED not in tensors:
        name, stored = EMBEDDING, _folded(_without_prefix(tensors, kind), declared, limits)
    else:
        name, stored = only(tensors)
        if name != FOLDED:
            _bad(f"{WEIGHTS_NAME} holds {listed(tensors)}; expected the tensor {FOLDED!r}.")
    prefix = kind in _PREFIXES
    sides = ("num_virtual_tokens",) if prefix else ("num_virtual_tokens", "token_dim")
    for key, found in zip(sides, stored.shape, strict=False):
        if declared.get(key, found) != found:
            _bad(
                f"{CONFIG_NAME} says {key} is {declared[key]}, but the tensor in "
                f"{WEIGHTS_NAME} has shape {stored.shape}."
            )
    if prefix:
        return name, _laid_out(stored, declared)
    if check_shape(stored.shape, limits) != "soft":
        _bad(f"{WEIGHTS_NAME} holds {listed(tensors)}; a {kind} adapter has [n, hidden_size].")
    return name, stored


def _folded(tensors: dict[str, Stored], declared: Mapping[str, Any], limits: Limits) -> Stored:
    try:
        if declared["peft_type"] == "PREFIX_TUNING":
            return project(tensors, declared, limits)
        # Before folding, so that its cost is bounded by the rows that may be served.
        check_shape(tensors[EMBEDDING].shape, limits)
        return fold_encoder(tensors, declared.get("encoder_reparameterization_type"))
    except (EncoderError, LayoutError) as error:
        _bad(f"{WEIGHTS_NAME} holds {listed(tensors)}, which can't be folded: {error}", error)


def _laid_out(stored: Stored, declared: Mapping[str, Any]) -> Stored:
    try:
        return by_layer(stored, declared)
    except LayoutError as error:
        _bad(f"{CONFIG_NAME} and {WEIGHTS_NAME} don't belong together: {error}", error)


def _check_type(peft_type: str | None) -> None:
    if peft_type in _TYPES:
        return
    known = ", ".join(_TYPES)
    if peft_type is None:
        _bad(f"{CONFIG_NAME} names no peft_type; expected one of {known}.")
    msg = (
        f"The adapter's peft_type is {peft_type}: it is not a prompt prepended to the input, nor "
        f"to every layer's keys and values. Accepted are {known}."
    )
    raise BadRequest(msg, code="artifact_unsupported_peft_type", param="tensor")


def _without_prefix(tensors: dict[str, Stored], kind: str) -> dict[str, Stored]:
    """Encoder weights under the encoder's own names, without a ``prompt_encoder.default.…``."""
    prefix = next((n.removesuffix(EMBEDDING) for n in tensors if n.endswith(EMBEDDING)), None)
    if prefix is None or not all(name.startswith(prefix) for name in tensors):
        _bad(
            f"{WEIGHTS_NAME} holds {listed(tensors)}; expected {FOLDED!r}, or the encoder's "
            f"{EMBEDDING!r} with {_ENCODERS[kind]}."
        )
    return {name.removeprefix(prefix): stored for name, stored in tensors.items()}


def _bad(message: str, cause: Exception | None = None) -> NoReturn:
    raise BadRequest(message, code="artifact_bad_peft_config", param="tensor") from cause
