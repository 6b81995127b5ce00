"""PEFT adapters: which are accepted, and which tensor of theirs is the prompt.

PEFT writes ``adapter_config.json`` and ``adapter_model.safetensors``. For prompt tuning and
P-Tuning its ``save_pretrained`` stores one tensor, ``prompt_embeddings``, with the encoder
already folded. A checkpoint of the encoder itself (``embedding.weight`` with ``mlp_head.*`` and,
for LSTM, ``lstm_head.*``) is folded by ``encoder.py``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NoReturn

from softprompt_serve.artifact.checks import check_shape
from softprompt_serve.artifact.encoder import EMBEDDING, EncoderError, fold_encoder
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
)
_COUNTS: Final = ("num_virtual_tokens", "token_dim", "num_transformer_submodules")
_TYPES: Final = ("PROMPT_TUNING", "P_TUNING")
_LATER: Final = ("PREFIX_TUNING", "CARTRIDGE")


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
        count = key in _COUNTS or key == "encoder_hidden_size"
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
    """The adapter's one tensor ``[n, hidden_size]`` and its name, folded if it wasn't.

    Raises:
        BadRequest: ``artifact_several_tensors``, ``artifact_unknown_dtype``, those of
            ``check_shape``, or ``artifact_bad_peft_config`` (weights that don't fit the
            configuration).
    """
    if declared.get("peft_type") == "P_TUNING" and FOLDED not in tensors:
        name, stored = EMBEDDING, _folded(_without_prefix(tensors), declared, limits)
    else:
        name, stored = only(tensors)
        if name != FOLDED:
            _bad(f"{WEIGHTS_NAME} holds {listed(tensors)}; expected the tensor {FOLDED!r}.")
    for key, found in zip(("num_virtual_tokens", "token_dim"), stored.shape, strict=False):
        if declared.get(key, found) != found:
            _bad(
                f"{CONFIG_NAME} says {key} is {declared[key]}, but the tensor in "
                f"{WEIGHTS_NAME} has shape {stored.shape}."
            )
    return name, stored


def _folded(tensors: dict[str, Stored], declared: Mapping[str, Any], limits: Limits) -> Stored:
    # Before folding, so that its cost is bounded by the rows that may be served.
    check_shape(tensors[EMBEDDING].shape, limits)
    named = declared.get("encoder_reparameterization_type")
    try:
        return fold_encoder(tensors, named)
    except EncoderError as error:
        _bad(f"{WEIGHTS_NAME} holds {listed(tensors)}, which can't be folded: {error}", error)


def _check_type(peft_type: str | None) -> None:
    if peft_type in _TYPES:
        return
    if peft_type is None:
        _bad(f"{CONFIG_NAME} names no peft_type; expected one of {', '.join(_TYPES)}.")
    reason = (
        "keys and values in every layer can't be served yet"
        if peft_type in _LATER
        else "it is not a prompt prepended to the input"
    )
    msg = f"The adapter's peft_type is {peft_type}: {reason}. Accepted are {', '.join(_TYPES)}."
    raise BadRequest(msg, code="artifact_unsupported_peft_type", param="tensor")


def _without_prefix(tensors: dict[str, Stored]) -> dict[str, Stored]:
    """Encoder weights under ``PromptEncoder``'s own names, as in ``prompt_encoder.default.…``."""
    prefix = next((n.removesuffix(EMBEDDING) for n in tensors if n.endswith(EMBEDDING)), None)
    if prefix is None or not all(name.startswith(prefix) for name in tensors):
        _bad(
            f"{WEIGHTS_NAME} holds {listed(tensors)}; expected {FOLDED!r}, or the encoder's "
            f"{EMBEDDING!r} with mlp_head.* (and lstm_head.*)."
        )
    return {name.removeprefix(prefix): stored for name, stored in tensors.items()}


def _bad(message: str, cause: Exception | None = None) -> NoReturn:
    raise BadRequest(message, code="artifact_bad_peft_config", param="tensor") from cause
