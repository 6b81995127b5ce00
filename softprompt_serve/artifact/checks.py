"""What a server can accept: limits, and the checks of tensors and texts against them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NoReturn

from softprompt_serve.artifact.content import ITEM_BYTES, KEYS_AND_VALUES, Content, Kind
from softprompt_serve.errors import BadRequest, TooLarge

DEFAULT_MAX_BYTES: Final = 256 * 1024 * 1024
# One visible token and one generated token must still fit behind the virtual ones.
RESERVED_TOKENS: Final = 2


@dataclass(frozen=True, slots=True)
class KvShape:
    """What one token leaves in the served model's cache, alike in every layer.

    Attributes:
        layers: with attention.
        kv_heads: of each layer, of all ranks together.
        head_dim: values of one head's key, and of its value.
    """

    layers: int
    kv_heads: int
    head_dim: int

    def of(self, tokens: int) -> tuple[int, ...]:
        """The shape of so many tokens' keys and values."""
        return self.layers, KEYS_AND_VALUES, tokens, self.kv_heads, self.head_dim


@dataclass(frozen=True, slots=True)
class Limits:
    """What this server can take; None means that the fact isn't known and isn't checked.

    Attributes:
        hidden_size: columns of the served model's embeddings.
        model_dtype: ``float32``, ``float16`` or ``bfloat16``, to which rows are cast.
        max_virtual_tokens: largest n.
        max_model_len: tokens of a request, virtual, visible and generated.
        max_text_chars: longest text, in characters.
        max_bytes: largest file, largest sum of a zip's files once unpacked, and largest tensor
            that an encoder folds to.
        kv: keys and values of the served model.
    """

    hidden_size: int | None
    model_dtype: str | None
    max_virtual_tokens: int
    max_model_len: int | None
    max_text_chars: int
    max_bytes: int = DEFAULT_MAX_BYTES
    kv: KvShape | None = None

    def __post_init__(self) -> None:
        """Refuse a dtype that nothing could be cast to."""
        if self.model_dtype is not None and self.model_dtype not in ITEM_BYTES:
            msg = f"model_dtype must be one of {', '.join(ITEM_BYTES)}, not {self.model_dtype!r}."
            raise ValueError(msg)


def check_bytes(size: int, limits: Limits, what: str) -> None:
    """Refuse more bytes than ``limits.max_bytes``.

    Raises:
        TooLarge: ``code="upload_too_large"``.
    """
    if size > limits.max_bytes:
        msg = f"{what} has {size} bytes; at most {limits.max_bytes} are accepted."
        raise TooLarge(msg, code="upload_too_large", param="tensor")


def check_text(text: str, limits: Limits) -> None:
    """Refuse a text that is empty, too long or not writable as UTF-8.

    Raises:
        BadRequest: ``code="artifact_bad_text"``.
    """
    problem = None
    if not text.strip():
        problem = "The text is empty; leave it out or write one."
    elif len(text) > limits.max_text_chars:
        problem = (
            f"The text has {len(text)} characters; at most {limits.max_text_chars} are accepted."
        )
    elif "\x00" in text or any("\ud800" <= char <= "\udfff" for char in text):
        problem = "The text holds a NUL or a lone surrogate; expected plain Unicode text."
    if problem:
        raise BadRequest(problem, code="artifact_bad_text", param="text")


def check_shape(shape: list[int], limits: Limits) -> Kind:
    """The kind of which a tensor of this shape is, if it is one that the server takes.

    ``[n, hidden_size]`` is soft, ``[layers, 2, n, kv_heads, head_dim]`` is a prefix. The rule for
    length: n + 2 <= max_model_len, so that at least one visible and one generated token have room.

    Raises:
        BadRequest: ``artifact_wrong_rank``, ``artifact_wrong_hidden_size``,
            ``artifact_wrong_kv_shape``, ``artifact_no_rows``, ``artifact_too_many_rows`` or
            ``artifact_too_long``.
    """
    match shape:
        case [rows, columns]:
            _check_columns(shape, columns, limits)
            kind: Kind = "soft"
        case [_, _, rows, _, _]:
            _check_layers(shape, limits)
            kind = "prefix"
        case _:
            _refuse(
                "artifact_wrong_rank",
                f"The tensor has shape {shape}; expected [n, hidden_size], or "
                "[layers, 2, n, kv_heads, head_dim].",
            )
    _check_length(shape, rows, limits)
    return kind


def _check_columns(shape: list[int], columns: int, limits: Limits) -> None:
    wanted = limits.hidden_size
    if columns < 1 or (wanted is not None and columns != wanted):
        _refuse(
            "artifact_wrong_hidden_size",
            f"The tensor has shape {shape}; expected [n, {wanted or 'hidden_size'}], "
            "the hidden size of the served model.",
        )


def _check_layers(shape: list[int], limits: Limits) -> None:
    layers, pair, _, heads, head_dim = shape
    kv = limits.kv
    fits = (
        min(layers, heads, head_dim) > 0 if kv is None else KvShape(layers, heads, head_dim) == kv
    )
    if pair != KEYS_AND_VALUES or not fits:
        wanted = (
            "[layers, 2, n, kv_heads, head_dim]"
            if kv is None
            else f"[{kv.layers}, 2, n, {kv.kv_heads}, {kv.head_dim}]"
        )
        _refuse(
            "artifact_wrong_kv_shape",
            f"The tensor has shape {shape}; expected {wanted}, the keys and values of the served "
            "model's layers.",
        )


def _check_length(shape: list[int], rows: int, limits: Limits) -> None:
    if rows < 1:
        _refuse("artifact_no_rows", f"The tensor has shape {shape}; expected at least one row.")
    if rows > limits.max_virtual_tokens:
        _refuse(
            "artifact_too_many_rows",
            f"The tensor has {rows} rows; at most {limits.max_virtual_tokens} virtual tokens are "
            "accepted (SOFTPROMPT_MAX_VIRTUAL_TOKENS).",
        )
    longest = limits.max_model_len
    if longest is not None and rows + RESERVED_TOKENS > longest:
        _refuse(
            "artifact_too_long",
            f"{rows} virtual tokens, one visible and one generated token don't fit the served "
            f"model's {longest} tokens (max_model_len).",
        )


def check_finite(content: Content, limits: Limits) -> None:
    """Refuse NaN and infinities, as stored and as the served model would hold them.

    Raises:
        BadRequest: ``code="artifact_not_finite"``.
    """
    # The registry may import this package but not torch.
    import torch  # noqa: PLC0415

    tensor = content.tensor()
    bad = int((~torch.isfinite(tensor)).sum())
    if bad:
        _refuse("artifact_not_finite", f"The tensor holds {bad} values that are NaN or infinite.")
    if limits.model_dtype is None:
        return
    cast = tensor.to(getattr(torch, limits.model_dtype))
    bad = int((~torch.isfinite(cast)).sum())
    if bad:
        _refuse(
            "artifact_not_finite",
            f"{bad} values of the {content.dtype} tensor become infinite when cast to "
            f"{limits.model_dtype}, the dtype of the served model.",
        )


def _refuse(code: str, message: str) -> NoReturn:
    raise BadRequest(message, code=code, param="tensor")
