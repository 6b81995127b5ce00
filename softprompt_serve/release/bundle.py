"""A version as one file that moves between environments unchanged: content, record, evidence.

The members, in this order (see ``members.py`` for the file, ``manifest.py`` for the first):

* ``manifest.json``: which version it is, and the SHA-256 of each other member,
* ``prompt.safetensors``: a learned version's tensor, ``text.txt``: the text of a hard or mixed one,
* ``record.json``: the release record, without what nobody filled in,
* ``evaluations/<run>.json``: each stored run that asked this version,
* ``signature.json``: where somebody signed the manifest (``signing.py``).

Approvals are not in it: they belong to the environment that gave them. Neither is a time, so two
exports of the same are the same bytes.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from softprompt_serve.artifact.content import LEARNED, Content, canonical_json
from softprompt_serve.artifact.tensors import only, read, write
from softprompt_serve.errors import Conflict, SoftpromptError
from softprompt_serve.release.evidence_shapes import parse_run, to_document
from softprompt_serve.release.manifest import (
    MANIFEST,
    SIGNATURE,
    Base,
    Manifest,
    Member,
    parse_manifest,
)
from softprompt_serve.release.members import MAX_BYTES, join, refuse, split
from softprompt_serve.release.records import parse_record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from softprompt_serve.release.evidence import Run
    from softprompt_serve.release.records import BaseModelIdentity, ReleaseRecord

SUFFIX: Final = ".spb"
MEDIA_TYPE: Final = "application/zip"
TENSOR: Final = "prompt.safetensors"
TEXT: Final = "text.txt"
RECORD: Final = "record.json"
_RUN: Final = re.compile(r"evaluations/([0-9a-f]{32})\.json")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A version and what is known of it.

    Attributes:
        prompt, version: its names.
        content: what it is; its digest is the bundle's.
        record: its release record.
        base: what was served where it was exported.
        runs: evaluations that asked this version, by their id; see :func:`evaluation`.
        tensor: the safetensors file of a learned version, else None.
        signature: a ``signature.json``, or None.
    """

    prompt: str
    version: str
    content: Content
    record: ReleaseRecord
    base: BaseModelIdentity
    runs: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))
    tensor: bytes | None = field(default=None, repr=False)
    signature: bytes | None = field(default=None, repr=False)

    @property
    def label(self) -> str:
        """``prompt@version``."""
        return f"{self.prompt}@{self.version}"


def filename(prompt: str, version: str) -> str:
    """What a bundle's file is called, such as ``support-v4.spb``."""
    return f"{prompt}-{version}{SUFFIX}"


def evaluation(run: Run) -> bytes:
    """A run as a member: the document that a server takes, its keys in order."""
    return canonical_json(json.loads(to_document(run)))


def pack(bundle: Bundle) -> bytes:
    """The bundle's file; equal bundles give equal bytes.

    Raises:
        Conflict: ``code="bundle_too_large"``.
    """
    members = _members(bundle)
    size = sum(len(data) for data in members.values())
    if size > MAX_BYTES:
        msg = (
            f"The bundle of {bundle.label} would have {size} bytes; at most {MAX_BYTES} are "
            "packed. Leave its evaluations out."
        )
        raise Conflict(msg, code="bundle_too_large")
    manifest = Manifest(
        prompt=bundle.prompt,
        version=bundle.version,
        kind=bundle.content.kind,
        digest=bundle.content.digest,
        base_model=Base(**asdict(bundle.base)),
        members={name: Member.of(data) for name, data in members.items()},
    )
    last = {} if bundle.signature is None else {SIGNATURE: bundle.signature}
    return join({MANIFEST: manifest.to_bytes()} | members | last)


def unpack(data: bytes) -> Bundle:
    """The bundle in a file, all of it checked but its signature.

    Raises:
        BadRequest: ``code="invalid_bundle"``: a broken or tampered file, a member that is
            missing, unexpected or of another hash, a content of another digest, a record that is
            none, or a run that is about something else.
    """
    members = split(data)
    manifest = parse_manifest(members.pop(MANIFEST, b""))
    signature = members.pop(SIGNATURE, None)
    manifest.check(members)
    if RECORD not in members:
        refuse(f"it has no {RECORD}")
    try:
        content = _content(manifest, members)
        record = parse_record(members.pop(RECORD))
    except SoftpromptError as error:
        refuse(error.message.rstrip("."), error)
    tensor = members.pop(TENSOR, None)
    members.pop(TEXT, None)
    if content.digest != manifest.digest:
        refuse(f"its content has the digest {content.digest}, not {manifest.digest}")
    runs = {_run_of(name, run, manifest): run for name, run in members.items()}
    return Bundle(
        prompt=manifest.prompt,
        version=manifest.version,
        content=content,
        record=record,
        base=manifest.identity,
        runs=MappingProxyType(runs),
        tensor=tensor,
        signature=signature,
    )


def _members(bundle: Bundle) -> dict[str, bytes]:
    """All members that the manifest counts, in the order in which they are written."""
    content = bundle.content
    members = {}
    if content.learned:
        members[TENSOR] = write(content) if bundle.tensor is None else bundle.tensor
    if content.text is not None:
        members[TEXT] = content.text.encode()
    members[RECORD] = bundle.record.to_text().encode()
    return members | {f"evaluations/{run}.json": bundle.runs[run] for run in sorted(bundle.runs)}


def _content(manifest: Manifest, members: Mapping[str, bytes]) -> Content:
    learned = manifest.kind in LEARNED
    if learned != (TENSOR in members):
        refuse(f"a {manifest.kind} version has {'a' if learned else 'no'} {TENSOR}")
    try:
        text = members[TEXT].decode() if TEXT in members else None
    except UnicodeDecodeError as error:
        refuse(f"{TEXT} is not UTF-8", error)
    if not learned:
        return Content(manifest.kind, text=text)
    name, stored = only(read(members[TENSOR], TENSOR))
    dtype, shape = stored.torch_dtype(name), tuple(stored.shape)
    return Content(manifest.kind, text=text, dtype=dtype, shape=shape, data=stored.data)


def _run_of(name: str, data: bytes, manifest: Manifest) -> str:
    """The id of the run in a member, which must be about this very version."""
    found = _RUN.fullmatch(name)
    if found is None:
        refuse(f"{name} is none of a bundle's members")
    try:
        run = parse_run(data)
    except SoftpromptError as error:
        refuse(f"{name}: {error.message.rstrip('.')}", error)
    if run.id != found[1]:
        refuse(f"{name} is the run {run.id}")
    if run.prompt != manifest.prompt or run.digests.get(manifest.version) != manifest.digest:
        refuse(f"{name} is not about {manifest.prompt}@{manifest.version} with this digest")
    return run.id
