"""From a file, a folder, an upload or a text to a checked :class:`Artifact`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

from softprompt_serve.artifact.adapter import (
    CONFIG_NAME,
    MAX_CONFIG_BYTES,
    WEIGHTS_NAME,
    fold,
    parse_config,
)
from softprompt_serve.artifact.archive import Archive, looks_zipped
from softprompt_serve.artifact.checks import check_bytes, check_finite, check_shape, check_text
from softprompt_serve.artifact.content import Content
from softprompt_serve.artifact.tensors import PICKLE_SUFFIXES, Stored, describe, only, read
from softprompt_serve.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from softprompt_serve.artifact.checks import Limits


@dataclass(frozen=True, slots=True)
class Artifact:
    """A checked content and what came with it.

    Attributes:
        content: the canonical content.
        declared: facts found in ``adapter_config.json`` (``peft_type``,
            ``base_model_name_or_path``, ``revision``, ``num_virtual_tokens``, …); else empty.
    """

    content: Content
    declared: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


def learned_from_path(path: Path, *, limits: Limits, text: str | None = None) -> Artifact:
    """Load a ``.safetensors`` file, a PEFT adapter folder or a zip of one.

    Raises:
        BadRequest: any ``artifact_*`` code; ``artifact_unreadable`` if the path can't be read.
        TooLarge: ``upload_too_large``.
    """
    try:
        if path.is_dir():
            return _from_folder(path, limits, text)
        return learned_from_bytes(
            _read_file(path, limits), filename=path.name, limits=limits, text=text
        )
    except OSError as error:
        msg = f"Can't read {path}: {error.strerror or error}."
        raise BadRequest(msg, code="artifact_unreadable", param="tensor") from error


def learned_from_bytes(
    data: bytes, *, filename: str | None, limits: Limits, text: str | None = None
) -> Artifact:
    """Load an uploaded file; its content decides what it is, ``filename`` is for messages.

    The version is soft or a prefix, by the shape of its tensor.

    Raises:
        BadRequest: any ``artifact_*`` code.
        TooLarge: ``upload_too_large``.
    """
    check_bytes(len(data), limits, filename or "The file")
    if looks_zipped(data):
        return _from_zip(data, filename, limits, text)
    name, stored = only(read(data, filename))
    return _learned(name, stored, {}, limits, text)


def hard(text: str, limits: Limits) -> Artifact:
    """A version that is a text.

    Raises:
        BadRequest: ``artifact_bad_text``.
    """
    check_text(text, limits)
    return Artifact(Content("hard", text=text))


def base() -> Artifact:
    """The version that adds nothing."""
    return Artifact(Content("base"))


def _from_folder(folder: Path, limits: Limits, text: str | None) -> Artifact:
    config, weights = folder / CONFIG_NAME, folder / WEIGHTS_NAME
    names = sorted(child.name for child in folder.iterdir())
    if not config.is_file():
        _refuse(
            "artifact_bad_peft_config",
            f"Found no {CONFIG_NAME} in {folder.name}; expected a PEFT adapter folder.",
        )
    with config.open("rb") as file:
        declared = parse_config(file.read(MAX_CONFIG_BYTES + 1))
    if not weights.is_file():
        _no_weights(names, folder.name)
    return _adapter(_read_file(weights, limits), declared, limits, text)


def _from_zip(data: bytes, filename: str | None, limits: Limits, text: str | None) -> Artifact:
    archive = Archive(data, limits.max_bytes)
    paths = {PurePosixPath(name) for name in archive.names}
    configs = [path for path in paths if path.name == CONFIG_NAME]
    if len(configs) != 1:
        if any(path.suffix == ".pkl" for path in paths):
            # torch.save writes a zip with a pickle inside.
            _refuse(
                "artifact_not_safetensors",
                f"{describe(b'-', 'data.pkl')} Expected a safetensors file.",
            )
        _refuse(
            "artifact_bad_peft_config",
            f"Found {len(configs)} files {CONFIG_NAME} in {filename or 'the zip'}; expected a zip "
            "of one PEFT adapter folder.",
        )
    declared = parse_config(archive.read(str(configs[0]), max_bytes=MAX_CONFIG_BYTES))
    weights = configs[0].with_name(WEIGHTS_NAME)
    if weights not in paths:
        _no_weights([path.name for path in paths], filename or "the zip")
    return _adapter(archive.read(str(weights)), declared, limits, text)


def _adapter(data: bytes, declared: dict[str, Any], limits: Limits, text: str | None) -> Artifact:
    name, stored = fold(read(data, WEIGHTS_NAME), declared, limits)
    return _learned(name, stored, declared, limits, text)


def _learned(
    name: str, stored: Stored, declared: dict[str, Any], limits: Limits, text: str | None
) -> Artifact:
    if text is not None:
        check_text(text, limits)
    dtype = stored.torch_dtype(name)
    kind = check_shape(stored.shape, limits)
    content = Content(kind, text=text, dtype=dtype, shape=tuple(stored.shape), data=stored.data)
    check_finite(content, limits)
    return Artifact(content, MappingProxyType(declared))


def _read_file(path: Path, limits: Limits) -> bytes:
    with path.open("rb") as file:
        data = file.read(limits.max_bytes + 1)
    check_bytes(len(data), limits, path.name)
    return data


def _no_weights(names: list[str], where: str) -> NoReturn:
    pickles = [name for name in names if PurePosixPath(name).suffix in PICKLE_SUFFIXES]
    found = describe(b"-", pickles[0]) if pickles else f"Found no {WEIGHTS_NAME} in {where}."
    _refuse("artifact_not_safetensors", f"{found} Expected {WEIGHTS_NAME}.")


def _refuse(code: str, message: str) -> NoReturn:
    raise BadRequest(message, code=code, param="tensor")
