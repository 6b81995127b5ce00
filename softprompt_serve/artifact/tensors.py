"""Read and write safetensors bytes; name what else was found, and never unpickle it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

from safetensors import SafetensorError, deserialize

from softprompt_serve.errors import BadRequest

if TYPE_CHECKING:
    from softprompt_serve.artifact.content import Content

DTYPES: Final = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
PROMPT: Final = "prompt_embeddings"
PREFIX: Final = "past_key_values"
# An encoder has some thirty tensors; each named one costs ten times its header's bytes to read.
MAX_HEADER_BYTES: Final = 1024 * 1024
_LENGTH_BYTES: Final = 8
PICKLE_SUFFIXES: Final = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})
_LISTED_NAMES: Final = 5
_LISTED_CHARS: Final = 100
_PICKLE_PROTOCOLS: Final = range(2, 6)


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor as a safetensors file holds it.

    Attributes:
        dtype: safetensors' own name, such as ``F32``.
        shape: its sides, of any rank.
        data: C order, little endian.
    """

    dtype: str
    shape: list[int]
    data: bytes

    def torch_dtype(self, name: str) -> str:
        """The dtype's name in torch, such as ``float32``.

        Raises:
            BadRequest: ``code="artifact_unknown_dtype"``.
        """
        if self.dtype not in DTYPES:
            msg = (
                f"Tensor {_brief(name)!r} has dtype {self.dtype}; expected one of "
                f"{', '.join(DTYPES)} ({', '.join(DTYPES.values())})."
            )
            raise BadRequest(msg, code="artifact_unknown_dtype", param="tensor")
        return DTYPES[self.dtype]


def read(data: bytes, filename: str | None) -> dict[str, Stored]:
    """The tensors of a safetensors file by name; ``filename`` is for messages only.

    Raises:
        BadRequest: ``code="artifact_not_safetensors"``, naming what was found.
    """
    _check_header(data, filename)
    try:
        found = deserialize(data)
    except SafetensorError as error:
        msg = f"{describe(data, filename)} Expected a safetensors file (the reader said: {error})."
        raise BadRequest(msg, code="artifact_not_safetensors", param="tensor") from error
    return {
        name: Stored(part["dtype"], list(part["shape"]), bytes(part["data"]))
        for name, part in found
    }


def write(content: Content) -> bytes:
    """A safetensors file with the content's one tensor.

    It is named as PEFT names rows, and a prefix as Transformers names keys and values.

    Raises:
        ValueError: the content is not learned.
    """
    # It takes torch to write, and none to read.
    from safetensors.torch import save  # noqa: PLC0415

    return save({PREFIX if content.kind == "prefix" else PROMPT: content.tensor()})


def only(tensors: dict[str, Stored]) -> tuple[str, Stored]:
    """The one tensor of a file that must hold one.

    Raises:
        BadRequest: ``code="artifact_several_tensors"``.
    """
    if len(tensors) != 1:
        msg = f"Found {listed(tensors)}; expected exactly one tensor."
        raise BadRequest(msg, code="artifact_several_tensors", param="tensor")
    return next(iter(tensors.items()))


def listed(tensors: dict[str, Stored]) -> str:
    """``2 tensors (a [1, 8], b [8])``, for messages; long lists are cut."""
    if not tensors:
        return "no tensors"
    names = [f"{_brief(name)} {_brief(str(p.shape))}" for name, p in sorted(tensors.items())]
    rest = ", …" if len(names) > _LISTED_NAMES else ""
    return f"{len(names)} tensors ({', '.join(names[:_LISTED_NAMES])}{rest})"


def _check_header(data: bytes, filename: str | None) -> None:
    """Refuse a header that takes more to read than any prompt's would."""
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if MAX_HEADER_BYTES < length <= len(data) - _LENGTH_BYTES:
        msg = (
            f"The header of {_name_of(filename)} has {length} bytes; at most {MAX_HEADER_BYTES} are "
            "read. Expected a safetensors file with one tensor and little metadata."
        )
        raise BadRequest(msg, code="artifact_not_safetensors", param="tensor")


def _brief(text: str) -> str:
    return text if len(text) <= _LISTED_CHARS else f"{text[:_LISTED_CHARS]}…"


def _name_of(filename: str | None) -> str:
    return _brief(PurePath(filename).name) if filename else "the file"


def describe(data: bytes, filename: str | None) -> str:
    """A sentence that says what the bytes look like."""
    name = _name_of(filename)
    suffix = PurePath(filename or "").suffix.lower()
    if not data:
        return f"Found an empty file in {name}."
    if suffix in PICKLE_SUFFIXES or looks_pickled(data):
        return (
            f"Found a pickle or torch checkpoint in {name}, which is never loaded because it can "
            "run code; save it with safetensors."
        )
    if data.startswith(b"GGUF"):
        return f"Found a GGUF file in {name}."
    if data.lstrip()[:1] in (b"{", b"["):
        return f"Found JSON in {name}."
    return f"Found something that isn't safetensors in {name}."


def looks_pickled(data: bytes) -> bool:
    """Whether the bytes begin as a pickle of protocol 2 to 5 does.

    Ask only when safetensors refused the bytes: a safetensors header of 640 bytes begins alike.
    """
    return data[:1] == b"\x80" and len(data) > 1 and data[1] in _PICKLE_PROTOCOLS
