"""PEFT's prefixes: one flat row per virtual token, and what it means layer by layer.

``save_pretrained`` of Prefix Tuning and of CARTRIDGE stores ``prompt_embeddings`` with the
projection folded, ``[n, layers * 2 * token_dim]``. PEFT reads a row as keys then values of the
first layer, then of the second, and so on, each ``[kv_heads, head_dim]``, and puts them into the
cache as they are. ``num_attention_heads`` and ``token_dim`` in its configuration are those of
keys and values: PEFT rewrites them for grouped queries and for heads of their own width.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from softprompt_serve.artifact.checks import check_bytes, check_shape
from softprompt_serve.artifact.content import ITEM_BYTES, KEYS_AND_VALUES
from softprompt_serve.artifact.encoder import EMBEDDING, PROJECTED, EncoderError, fold_projection
from softprompt_serve.artifact.tensors import Stored

if TYPE_CHECKING:
    from collections.abc import Mapping

    from softprompt_serve.artifact.checks import Limits

NEEDED: Final = ("num_layers", "num_attention_heads", "token_dim")


class LayoutError(ValueError):
    """Weights and configuration don't belong together; the message says why."""


def check_layout(rows: int, declared: Mapping[str, Any], limits: Limits) -> None:
    """Refuse what the configuration declares of ``rows`` virtual tokens, if it can't be served.

    Raises:
        LayoutError: a fact is missing, or the heads don't divide ``token_dim``.
        BadRequest: as :func:`~softprompt_serve.artifact.checks.check_shape`.
    """
    check_shape(_layered(rows, declared), limits)


def project(tensors: dict[str, Stored], declared: Mapping[str, Any], limits: Limits) -> Stored:
    """The flat prefix of an encoder's own weights, folded if it has a projection.

    Args:
        tensors: ``embedding.weight`` and, with a projection, ``transform.0.*``, ``transform.2.*``.
        declared: facts of ``adapter_config.json``.
        limits: bounds the cost of folding.

    Raises:
        LayoutError: the weights don't fit together.
        BadRequest: those of ``check_shape``, or ``artifact_unknown_dtype``.
        TooLarge: ``upload_too_large``: folded, it would have more bytes than a file may have.
    """
    embedding = tensors[EMBEDDING]
    if len(tensors) == 1:
        return embedding
    item = ITEM_BYTES[embedding.torch_dtype(EMBEDDING)]
    # Before folding, so that its cost is bounded by what may be served.
    rows = embedding.shape[0] if embedding.shape else 0
    check_layout(rows, declared, limits)
    widest = max((side for stored in tensors.values() for side in stored.shape), default=0)
    check_bytes(rows * widest * item, limits, "The folded prefix")
    if tensors.get(PROJECTED, embedding).shape[:1] != [_width(declared)]:
        msg = f"{PROJECTED} must give layers * 2 * token_dim = {_width(declared)} values."
        raise LayoutError(msg)
    try:
        return fold_projection(tensors)
    except EncoderError as error:
        raise LayoutError(str(error)) from error


def by_layer(flat: Stored, declared: Mapping[str, Any]) -> Stored:
    """PEFT's ``[n, layers * 2 * token_dim]`` as ``[layers, 2, n, kv_heads, head_dim]``, bit by bit.

    Raises:
        LayoutError: the configuration describes another width.
    """
    # The registry may import this package but not torch.
    import torch  # noqa: PLC0415

    rows = flat.shape[0] if flat.shape else 0
    layers, pair, _, heads, head_dim = shape = _layered(rows, declared)
    if flat.shape != [rows, _width(declared)]:
        msg = (
            f"the configuration says [{rows}, {_width(declared)}] (num_layers * 2 * token_dim), "
            f"the tensor has shape {flat.shape}."
        )
        raise LayoutError(msg)
    if 0 in shape:
        return Stored(flat.dtype, shape, b"")
    # As bytes, so that every dtype moves unchanged.
    cells = torch.frombuffer(bytearray(flat.data), dtype=torch.uint8)
    cells = cells.reshape(rows, layers, pair, heads, head_dim, -1).permute(1, 2, 0, 3, 4, 5)
    return Stored(flat.dtype, shape, cells.contiguous().numpy().tobytes())


def _layered(rows: int, declared: Mapping[str, Any]) -> list[int]:
    missing = [name for name in NEEDED if name not in declared]
    if missing:
        msg = f"the configuration names no {' and no '.join(missing)}."
        raise LayoutError(msg)
    layers, heads, token_dim = (declared[name] for name in NEEDED)
    if token_dim % heads:
        msg = f"{heads} num_attention_heads don't divide the token_dim of {token_dim}."
        raise LayoutError(msg)
    return [layers, KEYS_AND_VALUES, rows, heads, token_dim // heads]


def _width(declared: Mapping[str, Any]) -> int:
    return math.prod(_layered(1, declared))
