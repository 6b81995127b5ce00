"""Release records: what must be known about a version, and whether it fits the served model.

A record is what a person or a training run writes down; every field may be missing, and what is
missing is shown as missing (null), never made up. What was found and decided about the version
afterwards is the server's to keep: evaluations as evidence, approvals in the audit.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from softprompt_serve.errors import BadRequest
from softprompt_serve.release.curves import Curve

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_RECORD_BYTES: Final = 64 * 1024
"""Of what is in a record, written as :meth:`ReleaseRecord.to_text` does."""

_MAX_TEXT_BYTES: Final = 4 * MAX_RECORD_BYTES
"""Of a record however it is written: with escapes, spaces and nulls it is no other record."""

_LISTED_PROBLEMS: Final = 5
_COMMIT: Final = re.compile(r"[0-9a-f]{7,64}")
_CACHED: Final = re.compile(r"models--(?P<owner>.+?)--(?P<name>.+)")

Line = Annotated[str, Field(min_length=1, max_length=1024)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_NAME = r"[a-z0-9][a-z0-9._-]{0,62}"
Ancestor = Annotated[str, Field(pattern=rf"^(?:{_NAME}@{_NAME}|[0-9a-f]{{64}})$")]


class ReleaseRecord(BaseModel):
    """Everything an auditor asks about a version; None is what nobody wrote down."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    dataset: Annotated[Line | None, Field(description="Training data set.")] = None
    dataset_version: Annotated[Line | None, Field(description="Its version.")] = None
    dataset_sha256: Annotated[Sha256 | None, Field(description="Its SHA-256.")] = None
    base_model: Annotated[
        Line | None, Field(description="Base model, as `owner/name` or a directory.")
    ] = None
    base_model_revision: Annotated[Line | None, Field(description="Its revision.")] = None
    base_model_fingerprint: Annotated[
        Line | None, Field(description="Fingerprint of its weights.")
    ] = None
    tokenizer_fingerprint: Annotated[
        Line | None, Field(description="Fingerprint of the tokenizer in training.")
    ] = None
    chat_template_sha256: Annotated[
        Sha256 | None, Field(description="SHA-256 of the chat template in training.")
    ] = None
    method: Annotated[
        Line | None, Field(description="Such as prompt_tuning, p_tuning or hand_written.")
    ] = None
    optimizer: Annotated[dict[str, JsonValue] | None, Field(description="Optimizer settings.")] = (
        None
    )
    seed: Annotated[int | None, Field(description="Seed of the training run.")] = None
    init: Annotated[Line | None, Field(description="How the rows were initialized.")] = None
    training_code: Annotated[
        Line | None, Field(description="Repository and commit of the training code.")
    ] = None
    training_curve: Annotated[
        Curve | None, Field(description="What was measured, by step: `[{step, loss, …}]`.")
    ] = None
    trained_from: Annotated[
        Ancestor | None,
        Field(description="What its training began from: `prompt@version`, or a digest."),
    ] = None
    metrics: Annotated[
        dict[Line, float] | None, Field(description="Evaluation results by name.")
    ] = None
    notes: Annotated[
        str | None, Field(max_length=16_384, description="Anything else worth knowing.")
    ] = None
    created_by: Annotated[Line | None, Field(description="Who made the version.")] = None

    def missing(self) -> list[str]:
        """Names of the fields that an auditor expects and nobody filled in."""
        return [name for name in EXPECTED if getattr(self, name) is None]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data with every field; what is missing is None."""
        return self.model_dump(mode="json")

    def given(self) -> dict[str, Any]:
        """Plain JSON data with what was filled in alone: a record of an older release as it was."""
        return {name: value for name, value in self.to_json().items() if value is not None}

    def to_text(self) -> str:
        """What was filled in as compact JSON.

        Raises:
            ValueError: a number in it that JSON doesn't have.
        """
        return json.dumps(
            self.given(), ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True
        )


EXPECTED: Final = (
    "dataset",
    "dataset_version",
    "base_model",
    "base_model_revision",
    "method",
    "optimizer",
    "seed",
    "training_code",
    "metrics",
    "created_by",
)


@dataclass(frozen=True, slots=True)
class BaseModelIdentity:
    """What the server knows about the model it serves; None is unknown.

    Attributes:
        name: ``owner/name`` or a directory.
        revision: a commit, branch or tag.
        fingerprint: of the weights.
        tokenizer_fingerprint: of the tokenizer.
        chat_template_sha256: of the chat template's text.
    """

    name: str | None = None
    revision: str | None = None
    fingerprint: str | None = None
    tokenizer_fingerprint: str | None = None
    chat_template_sha256: str | None = None


def parse_record(data: bytes | str | Mapping[str, Any] | None) -> ReleaseRecord:
    """The record in JSON or as plain data; nothing (None, or blank) is an empty record.

    Raises:
        BadRequest: ``code="invalid_record"``, naming each field that is wrong.
    """
    if data is None or (isinstance(data, (bytes, str)) and not data.strip()):
        return ReleaseRecord()
    try:
        text = data if isinstance(data, (bytes, str)) else json.dumps(dict(data), allow_nan=False)
        _check_size(text if isinstance(text, bytes) else text.encode(), _MAX_TEXT_BYTES)
        record = ReleaseRecord.model_validate_json(text)
        # JsonValue lets NaN and the like through, which no JSON reader must accept.
        _check_size(record.to_text().encode(), MAX_RECORD_BYTES)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in e['loc']) or 'the whole'}: {e['msg']}"
            for e in error.errors(include_url=False)
        ]
        rest = "; …" if len(problems) > _LISTED_PROBLEMS else ""
        _invalid("; ".join(problems[:_LISTED_PROBLEMS]) + rest, error)
    except (TypeError, ValueError, RecursionError) as error:
        _invalid(str(error), error)
    return record


def stored_record(data: Mapping[str, Any]) -> ReleaseRecord:
    """A record as the catalogue holds it, checked when it came.

    Raises:
        ValueError: it is none.
    """
    return ReleaseRecord.model_validate_json(json.dumps(dict(data)))


def check_base_model(
    record: ReleaseRecord, declared: Mapping[str, Any], served: BaseModelIdentity
) -> list[str]:
    """Compare what a version was made for with what is served; only what both sides know.

    The base model's name and revision are the record's; if it names no base model, those of
    ``adapter_config.json`` (``base_model_name_or_path``, ``revision``) in ``declared``.

    Rules:
        * Fingerprints of weights, where both are known, decide; name and revision then only
          make notes.
        * Names: two of the form ``owner/name`` must be equal, letter case aside. If one of them
          is a path or has no owner, their last components are compared; a directory of the hub
          cache stands for its ``owner/name``.
        * Revisions: a commit and a prefix of it are equal; a commit and a branch or tag can't be
          compared, which makes a note.
        * Tokenizer fingerprints and chat-template hashes must be equal.

    Returns:
        Notes for a person: what couldn't be compared.

    Raises:
        BadRequest: ``code="base_model_mismatch"``; ``param`` is the field that disagrees.
    """
    name, revision = record.base_model, record.base_model_revision
    if name is None:
        name = _text(declared, "base_model_name_or_path")
        revision = revision or _text(declared, "revision")
    for field in ("tokenizer_fingerprint", "chat_template_sha256"):
        _equal(field, getattr(record, field), getattr(served, field))
    ours = served.fingerprint
    known = record.base_model_fingerprint is not None and ours is not None
    if known:
        _equal("base_model_fingerprint", record.base_model_fingerprint, ours)
    return _compare(name, revision, served, decided=known)


def _compare(
    name: str | None, revision: str | None, served: BaseModelIdentity, *, decided: bool
) -> list[str]:
    notes = []
    if name is None or served.name is None:
        notes.append("No base model is named, so that it can't be compared with the served one.")
    elif not _same_name(name, served.name):
        if not decided:
            _mismatch("base_model", name, served.name)
        notes.append(f"The version names {name}, served is {served.name}; the weights are equal.")
    if revision is None or served.revision is None:
        notes.append("The base model's revision is not known on both sides.")
    elif bool(_COMMIT.fullmatch(revision)) != bool(_COMMIT.fullmatch(served.revision)):
        notes.append(f"Revisions {revision} and {served.revision} can't be compared.")
    elif not _same_revision(revision, served.revision):
        if not decided:
            _mismatch("base_model_revision", revision, served.revision)
        notes.append(
            f"The version names revision {revision}, served is {served.revision}; the weights "
            "are equal."
        )
    return notes


def _same_name(one: str, other: str) -> bool:
    first, second = _parts(one), _parts(other)
    if first[0] is None or second[0] is None:
        return first[1] == second[1]
    return first == second


def _parts(name: str) -> tuple[str | None, str]:
    """``(owner, name)`` in lower case; no owner for a path or a bare name."""
    path = PurePath(name.strip().replace("\\", "/"))
    for part in path.parts:
        if cached := _CACHED.fullmatch(part):
            return cached["owner"].lower(), cached["name"].lower()
    is_id = len(path.parts) == len(("owner", "name")) and path.parts[0] not in ("/", ".", "..", "~")
    if is_id and not name.startswith("./"):
        return path.parts[0].lower(), path.name.lower()
    return None, path.name.lower()


def _same_revision(one: str, other: str) -> bool:
    if _COMMIT.fullmatch(one) and _COMMIT.fullmatch(other):
        return one.startswith(other) or other.startswith(one)
    return one == other


def _text(declared: Mapping[str, Any], key: str) -> str | None:
    value = declared.get(key)
    return value if isinstance(value, str) and value else None


def _equal(field: str, theirs: str | None, ours: str | None) -> None:
    if theirs is not None and ours is not None and theirs != ours:
        _mismatch(field, theirs, ours)


def _mismatch(field: str, theirs: str, ours: str) -> NoReturn:
    msg = (
        f"The version was made for another base model: its {field} is {theirs}, the served "
        f"model's is {ours}. Serve the model it was made for, or train it for this one."
    )
    raise BadRequest(msg, code="base_model_mismatch", param=field)


def _check_size(text: bytes, most: int) -> None:
    if len(text) > most:
        _invalid(f"it has {len(text)} bytes; at most {most} are accepted")


def _invalid(problem: str, cause: Exception | None = None) -> NoReturn:
    msg = f"The release record is not valid: {problem}."
    raise BadRequest(msg, code="invalid_record", param="record") from cause
