"""Fold an encoder into what it stands for.

The arithmetic is that of PEFT when it folds for inference (no dropout), in the checkpoint's own
dtype and with the same torch operations. ``PromptEncoder`` is ``mlp(embedding)``, or
``mlp(lstm(embedding))`` with a bidirectional LSTM: P-Tuning (Liu et al., 2021, arXiv:2103.10385).
``PrefixEncoder`` is ``transform(embedding)``, two layers round a tanh: Prefix-Tuning (Li and
Liang, 2021, arXiv:2101.00190).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from softprompt_serve.artifact.tensors import DTYPES, Stored

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

EMBEDDING: Final = "embedding.weight"
PROJECTED: Final = "transform.2.weight"


class EncoderError(ValueError):
    """The weights are not those of an encoder; the message says why."""


def fold_encoder(tensors: dict[str, Stored], named: str | None) -> Stored:
    """The encoder's output ``[n, hidden_size]`` for its own embedding.

    Args:
        tensors: ``embedding.weight`` ``[n, hidden_size]``, ``mlp_head.*`` and, for LSTM,
            ``lstm_head.*``; all of one dtype.
        named: ``MLP`` or ``LSTM`` where the configuration says it.

    Raises:
        EncoderError: a part is missing, too many, of another shape or dtype than the rest.
        BadRequest: ``code="artifact_unknown_dtype"``.
    """
    kind = "LSTM" if any(name.startswith("lstm_head.") for name in tensors) else "MLP"
    if named not in (None, kind):
        msg = f"the configuration says {named}, the weights are those of {kind}."
        raise EncoderError(msg)
    folded = _fold(tensors, _lstm_parts if kind == "LSTM" else _mlp_parts)
    wanted = tensors[EMBEDDING].shape
    if folded.shape != wanted:
        msg = f"the encoder gives {folded.shape} for an embedding {wanted}."
        raise EncoderError(msg)
    return folded


def fold_projection(tensors: dict[str, Stored]) -> Stored:
    """The projected prefix ``[n, layers * 2 * kv_heads * head_dim]`` of its own embedding.

    Args:
        tensors: ``embedding.weight`` ``[n, token_dim]``, ``transform.0.*`` and ``transform.2.*``,
            all of one dtype.

    Raises:
        EncoderError, BadRequest: as :func:`fold_encoder`.
    """
    return _fold(tensors, _projection_parts)


def _fold(
    tensors: dict[str, Stored], build: Callable[[dict[str, torch.Tensor], int], torch.nn.Module]
) -> Stored:
    # The registry may import this package but not torch.
    import torch  # noqa: PLC0415

    if len({stored.dtype for stored in tensors.values()}) != 1:
        msg = "the weights differ in dtype."
        raise EncoderError(msg)
    dtype = getattr(torch, tensors[EMBEDDING].torch_dtype(EMBEDDING))
    weights = {
        name: torch.frombuffer(bytearray(stored.data), dtype=dtype).reshape(stored.shape)
        for name, stored in tensors.items()
        if stored.data
    }
    try:
        embedding = weights.pop(EMBEDDING)
        parts = build(weights, embedding.shape[1])
        # Built without storage, so that shapes are compared before anything is allocated.
        parts.load_state_dict(weights, assign=True)
        # A batch of one, as PEFT has it, so that the arithmetic is the same.
        rows = _run(parts.eval(), embedding.unsqueeze(0))[0]
    except (KeyError, IndexError, RuntimeError) as error:
        raise EncoderError(f"{error}") from error  # noqa: EM102 (the reason is the whole message)
    names = {torch_name: name for name, torch_name in DTYPES.items()}
    data = rows.contiguous().view(torch.uint8).numpy().tobytes()
    return Stored(names[str(rows.dtype).removeprefix("torch.")], list(rows.shape), data)


def _mlp_parts(weights: dict[str, torch.Tensor], width: int) -> torch.nn.Module:
    from torch import nn  # noqa: PLC0415

    inner = weights["mlp_head.0.weight"].shape[0]
    head = nn.Sequential(
        nn.Linear(width, inner, device="meta"),
        nn.ReLU(),
        nn.Linear(inner, inner, device="meta"),
        nn.ReLU(),
        nn.Linear(inner, width, device="meta"),
    )
    return nn.ModuleDict({"mlp_head": head})


def _lstm_parts(weights: dict[str, torch.Tensor], width: int) -> torch.nn.Module:
    from torch import nn  # noqa: PLC0415

    first = weights["lstm_head.weight_ih_l0"]
    inner = weights["lstm_head.weight_hh_l0"].shape[1]
    layers = sum(
        name.startswith("lstm_head.weight_ih_l") and not name.endswith("_reverse")
        for name in weights
    )
    lstm = nn.LSTM(
        width,
        inner,
        num_layers=layers,
        bidirectional=True,
        batch_first=True,
        device="meta",
        dtype=first.dtype,
    )
    head = nn.Sequential(
        nn.Linear(inner * 2, inner * 2, device="meta"),
        nn.ReLU(),
        nn.Linear(inner * 2, width, device="meta"),
    )
    return nn.ModuleDict({"lstm_head": lstm, "mlp_head": head})


def _projection_parts(weights: dict[str, torch.Tensor], width: int) -> torch.nn.Module:
    from torch import nn  # noqa: PLC0415

    inner, given = weights["transform.0.weight"].shape[0], weights[PROJECTED].shape[0]
    transform = nn.Sequential(
        nn.Linear(width, inner, device="meta"), nn.Tanh(), nn.Linear(inner, given, device="meta")
    )
    return nn.ModuleDict({"transform": transform})


def _run(parts: torch.nn.Module, embedding: torch.Tensor) -> torch.Tensor:
    # Gradients stay on, as in PEFT's save_pretrained: without them torch picks another LSTM
    # kernel, whose last bits differ, and one prompt would have two digests.
    inner = embedding
    for name, part in parts.named_children():
        inner = part(inner)[0] if name == "lstm_head" else part(inner)
    return inner.detach()
