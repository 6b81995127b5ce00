r"""The canonical content of one version, and the digest that names it everywhere.

A content is a header (canonical JSON) and, for a learned one, tensor bytes. Its digest is the
SHA-256 of ``b"softprompt/1\n" + header + b"\n" + data``. The same header and bytes travel from
the upload to the blob store and to each worker, so that any of them can check what it got.

Two kinds are learned. A ``soft`` content is rows that come before the input's embeddings. A
``prefix`` content is keys and values that stand in every layer's cache before the first token's.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal, NoReturn, cast, get_args

from softprompt_serve.errors import BadRequest

if TYPE_CHECKING:
    import torch

Kind = Literal["soft", "prefix", "hard", "base"]
# The kinds that have a tensor, which must be resident before it can answer.
LEARNED: Final = ("soft", "prefix")
PREAMBLE: Final = b"softprompt/1\n"
ITEM_BYTES: Final = {"float32": 4, "float16": 2, "bfloat16": 2}
_HEADER_KEYS: Final = {"kind", "dtype", "shape", "text"}
# The sides of each kind's tensor, and which of them is n.
_SIDES: Final = {
    "soft": ("n", "hidden_size"),
    "prefix": ("layers", "2", "n", "kv_heads", "head_dim"),
}
KEYS_AND_VALUES: Final = 2


@dataclass(frozen=True, slots=True)
class Content:
    """What a version is, after folding and before any cast.

    Attributes:
        kind: ``soft``, ``prefix``, ``hard`` or ``base``.
        text: the text of a hard version, or the one that a learned version adds; else None.
        dtype: ``float32``, ``float16`` or ``bfloat16``; None unless learned.
        shape: ``(n, hidden_size)`` if soft; ``(layers, 2, n, kv_heads, head_dim)`` if a prefix,
            keys before values, the keys as the cache holds them, rotated; else None.
        data: the tensor, C order, little endian; ``b""`` unless learned.
        header: canonical JSON of kind, dtype, shape and text (derived).
        digest: SHA-256, hex (derived).

    Raises:
        BadRequest: ``code="artifact_bad_content"``, when the parts don't belong together.
    """

    kind: Kind
    text: str | None = None
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    data: bytes = field(default=b"", repr=False)
    header: bytes = field(init=False, repr=False)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        """Check the parts and derive header and digest once."""
        _check(self)
        fields = {"kind": self.kind, "dtype": self.dtype, "shape": self.shape, "text": self.text}
        object.__setattr__(self, "header", canonical_json(fields))
        object.__setattr__(self, "digest", digest_of(self.header, self.data))

    @property
    def learned(self) -> bool:
        """Whether there is a tensor, which must be resident before the version can answer."""
        return self.kind in LEARNED

    @property
    def virtual_tokens(self) -> int:
        """N, the positions that the tensor takes before the input; 0 unless learned."""
        return self.shape[_SIDES[self.kind].index("n")] if self.shape else 0

    @property
    def hidden_size(self) -> int:
        """Columns of the tensor; 0 unless soft."""
        return self.shape[1] if self.shape and self.kind == "soft" else 0

    def tensor(self) -> torch.Tensor:
        """A fresh CPU tensor of the content's own shape and dtype.

        Raises:
            ValueError: if the content is not learned.
        """
        # The registry may import this module but not torch.
        import torch  # noqa: PLC0415

        if self.dtype is None or self.shape is None:
            msg = f"A {self.kind} version has no tensor."
            raise ValueError(msg)
        flat = torch.frombuffer(bytearray(self.data), dtype=getattr(torch, self.dtype))
        return flat.reshape(self.shape)


def canonical_json(value: object) -> bytes:
    """JSON with sorted keys, no spaces and only ASCII, so that equal values give equal bytes."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return text.encode("ascii")


def digest_of(header: bytes, data: bytes) -> str:
    """The digest, hex, of a content's header and tensor bytes."""
    sha = hashlib.sha256(PREAMBLE)
    sha.update(header)
    sha.update(b"\n")
    sha.update(data)
    return sha.hexdigest()


@lru_cache(maxsize=4096)
def keys_of(digest: str) -> str:
    """The name under which a bank keeps the keys and values of the soft version with ``digest``.

    They depend on the served model too, so they are made there and never leave it.
    """
    return hashlib.sha256(f"softprompt/keys/1\n{digest}".encode()).hexdigest()


def content_from_parts(header: bytes, data: bytes) -> Content:
    """The content of a header and tensor bytes that were stored or sent.

    Raises:
        BadRequest: ``code="artifact_bad_content"``: the header isn't canonical, has unknown
            keys, or doesn't fit the bytes.
    """
    try:
        fields = json.loads(header)
    except (ValueError, RecursionError) as error:
        _refuse(f"The content's header is not JSON: {error}.", error)
    if not isinstance(fields, dict) or set(fields) != _HEADER_KEYS:
        _refuse(f"The content's header must have the keys {sorted(_HEADER_KEYS)} and no other.")
    shape = fields["shape"]
    if isinstance(shape, list):
        fields["shape"] = tuple(shape)
    content = Content(**fields, data=bytes(data))
    if content.header != header:
        _refuse("The content's header is not in canonical form.")
    return content


def _check(content: Content) -> None:
    if content.kind not in get_args(Kind):
        _refuse(f"Kind must be one of {', '.join(get_args(Kind))}, not {content.kind!r}.")
    if content.text is not None and not isinstance(content.text, str):
        _refuse(f"A content's text must be a string, not {type(content.text).__name__}.")
    if (content.kind == "hard" and not content.text) or (content.kind == "base" and content.text):
        _refuse("A hard version needs a text, and a base version has none.")
    if not content.learned:
        if content.dtype is not None or content.shape is not None or content.data:
            _refuse(f"A {content.kind} version has no tensor.")
        return
    _check_tensor(content.kind, content.dtype, content.shape, len(content.data))


def _check_tensor(kind: Kind, dtype: object, shape: object, size: int) -> None:
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        _refuse(f"Tensor dtype must be one of {', '.join(ITEM_BYTES)}, not {dtype!r}.")
    if (
        not isinstance(shape, tuple)
        or len(shape) != len(_SIDES[kind])
        or not all(type(side) is int and side > 0 for side in shape)
        or (kind == "prefix" and shape[1] != KEYS_AND_VALUES)
    ):
        sides = ", ".join(_SIDES[kind])
        _refuse(f"A {kind} tensor's shape must be positive integers [{sides}], not {shape!r}.")
    expected = math.prod(cast("tuple[int, ...]", shape)) * ITEM_BYTES[dtype]
    if size != expected:
        _refuse(f"A {dtype} tensor {list(shape)} has {expected} bytes; found {size}.")


def _refuse(message: str, cause: Exception | None = None) -> NoReturn:
    raise BadRequest(message, code="artifact_bad_content") from cause
