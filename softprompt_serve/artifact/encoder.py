"""Fold a P-Tuning encoder into the rows that it stands for.

The arithmetic is that of PEFT's ``PromptEncoder`` when it folds for inference (no dropout), in
the checkpoint's own dtype and with the same torch operations: ``mlp(embedding)``, or
``mlp(lstm(embedding))`` with a bidirectional LSTM. See P-Tuning (Liu et al., 2021, arXiv:2103.10385).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from softprompt_serve.artifact.tensors import DTYPES, Stored

if TYPE_CHECKING:
    import torch

EMBEDDING: Final = "embedding.weight"


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
    # The registry may import this package but not torch.
    import torch  # noqa: PLC0415

    if len({stored.dtype for stored in tensors.values()}) != 1:
        msg = "the weights differ in dtype."
        raise EncoderError(msg)
    dtype = getattr(torch, tensors[EMBEDDING].torch_dtype(EMBEDDING))
    kind = "LSTM" if any(name.startswith("lstm_head.") for name in tensors) else "MLP"
    if named not in (None, kind):
        msg = f"the configuration says {named}, the weights are those of {kind}."
        raise EncoderError(msg)
    weights = {
        name: torch.frombuffer(bytearray(stored.data), dtype=dtype).reshape(stored.shape)
        for name, stored in tensors.items()
        if stored.data
    }
    try:
        embedding = weights.pop(EMBEDDING)
        parts = _lstm_parts(weights) if kind == "LSTM" else _mlp_parts(weights, embedding.shape[1])
        # Built without storage, so that shapes are compared before anything is allocated.
        parts.load_state_dict(weights, assign=True)
        # A batch of one, as PEFT has it, so that the arithmetic is the same.
        rows = _run(parts.eval(), embedding.unsqueeze(0))[0]
    except (KeyError, IndexError, RuntimeError) as error:
        raise EncoderError(f"{error}") from error  # noqa: EM102 (the reason is the whole message)
    if rows.shape != embedding.shape:
        msg = f"the encoder gives {list(rows.shape)} for an embedding {list(embedding.shape)}."
        raise EncoderError(msg)
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


def _lstm_parts(weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    from torch import nn  # noqa: PLC0415

    first = weights["lstm_head.weight_ih_l0"]
    width, inner = first.shape[1], weights["lstm_head.weight_hh_l0"].shape[1]
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


def _run(parts: torch.nn.Module, embedding: torch.Tensor) -> torch.Tensor:
    # Gradients stay on, as in PEFT's save_pretrained: without them torch picks another LSTM
    # kernel, whose last bits differ, and one prompt would have two digests.
    inner = embedding
    for name, part in parts.named_children():
        inner = part(inner)[0] if name == "lstm_head" else part(inner)
    return inner.detach()
